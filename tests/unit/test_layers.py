"""Imports within the package point one way only, as docs/architecture.md says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "avfusion"


def layers() -> list[str]:
    """The folders of the package from top to bottom, as the documentation lists them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    sentence = re.search(r"Arrows of import point downwards in this order: (.*?)\.\s", text, re.DOTALL)
    assert sentence
    return re.findall(r"`(\w+)`", sentence[1])


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (name for name in names if name.startswith("avfusion."))


def test_every_folder_has_its_layer() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(layers()) == folders


@pytest.mark.parametrize("folder", layers())
def test_imports_point_downwards(folder: str) -> None:
    above = layers()[: layers().index(folder)]
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        wrong = [name for name in imported(path) if name.split(".")[1] in above]
        assert wrong == [], f"{path.relative_to(ROOT)} imports what lies above it"
