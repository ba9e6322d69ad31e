"""The fingerprint must move when, and only when, code moves that a script can reach."""

from collections.abc import Callable
from pathlib import Path

import pytest

from avfusion import fingerprint as module
from avfusion.fingerprint import closure, fingerprint, third_party

FILES = {
    "kit/__init__.py": '"""A package."""\n',
    "kit/a.py": '"""Module a."""\nimport numpy\n\ndef f():\n    """What f does."""\n    return 1\n',
    "kit/b.py": "def g():\n    from kit.deep.c import h\n    return h()\n",
    "kit/deep/__init__.py": "",
    "kit/deep/c.py": "from . import d\nfrom ..a import f\nh = f\n",
    "kit/deep/d.py": "x = 1\n",
    "kit/typed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kit.unused import y\n",
    "kit/unused.py": "y = 1\n",
    "one.py": "from kit.a import f\n",
    "two.py": "from kit import b\n",
    "three.py": "import kit.typed\n",
}
Tree = Callable[[dict[str, str]], None]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        module._read.cache_clear()

    write(FILES)
    return write


def prints(root: Path) -> dict[str, str]:
    return {name: fingerprint(root / f"{name}.py", root / "kit") for name in ("one", "two", "three")}


@pytest.mark.parametrize(
    ("script", "reached"),
    [
        ("one", {"kit", "kit.a"}),
        ("two", {"kit", "kit.b", "kit.deep", "kit.deep.c", "kit.deep.d", "kit.a"}),
        ("three", {"kit", "kit.typed"}),
    ],
)
def test_closure_follows_every_kind_of_import(
    tree: Tree, tmp_path: Path, script: str, reached: set[str]
) -> None:
    assert set(closure(tmp_path / f"{script}.py", tmp_path / "kit")) == reached


@pytest.mark.parametrize(
    ("changed", "text", "moves"),
    [
        ("kit/a.py", FILES["kit/a.py"].replace("return 1", "return 2"), {"one", "two"}),
        ("kit/deep/d.py", "x = 2\n", {"two"}),
        ("kit/__init__.py", "import os\n", {"one", "two", "three"}),
        ("kit/unused.py", "y = 2\n", set()),
        ("kit/a.py", FILES["kit/a.py"].replace("return 1", "return 1  # one"), set()),
        ("kit/a.py", FILES["kit/a.py"].replace("What f does", "It gives one"), set()),
        ("kit/a.py", FILES["kit/a.py"].replace("return 1", "return (\n        1\n    )"), set()),
    ],
)
def test_moves_with_the_code_that_is_reached(
    tree: Tree, tmp_path: Path, changed: str, text: str, moves: set[str]
) -> None:
    before = prints(tmp_path)
    tree({changed: text})
    after = prints(tmp_path)
    assert {name for name in before if before[name] != after[name]} == moves


def test_other_sources_count_once_their_module_is_reached(tree: Tree, tmp_path: Path) -> None:
    tree({"csrc/op.cpp": "int x = 1;\n"})
    sources = {"kit.deep.c": tmp_path / "csrc"}
    before = [fingerprint(tmp_path / f"{name}.py", tmp_path / "kit", sources) for name in ("one", "two")]
    tree({"csrc/op.cpp": "int x = 2;\n"})
    after = [fingerprint(tmp_path / f"{name}.py", tmp_path / "kit", sources) for name in ("one", "two")]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_third_party_names_what_an_environment_must_hold(tree: Tree, tmp_path: Path) -> None:
    assert "numpy" in third_party(tmp_path / "one.py", tmp_path / "kit")
    assert "numpy" not in third_party(tmp_path / "three.py", tmp_path / "kit")


def test_a_table_of_module_names_counts_as_imports(tree: Tree, tmp_path: Path) -> None:
    tree({"kit/b.py": 'TABLE = {"u": "kit.unused", "o": "os.path"}\n'})
    assert set(closure(tmp_path / "two.py", tmp_path / "kit")) == {"kit", "kit.b", "kit.unused"}
