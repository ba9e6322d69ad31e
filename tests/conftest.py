"""Fixtures that all tests share. Data outside the repository is named by AVFUSION_SHARED."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden data, clips and annotation tables; tests that need it are skipped without it."""
    folder = os.environ.get("AVFUSION_SHARED")
    if not folder:
        pytest.skip("needs the shared data: set AVFUSION_SHARED to its folder")
    if not Path(folder).is_dir():
        pytest.skip(f"needs the shared data: AVFUSION_SHARED names {folder}, which is no folder")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Inputs and outputs of the published code; its README.md states the tolerances."""
    return shared / "golden"
