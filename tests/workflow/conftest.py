"""The tiny dataset: a checkout of the workflow in a scratch folder, run once for all tests."""

from pathlib import Path

import pytest
from snakemake_runs import Scratch, checkout


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A checkout in which the table and the report of the tiny dataset have been made."""
    scratch = checkout(tmp_path_factory.mktemp("tiny"))
    scratch.run()
    return scratch


@pytest.fixture
def fresh(tmp_path: Path) -> Scratch:
    """A checkout in which nothing has run."""
    return checkout(tmp_path)
