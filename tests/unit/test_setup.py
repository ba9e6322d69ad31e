"""setup.py: what it builds, and that it does not fail where nothing can be built."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools

ROOT = Path(__file__).parents[2]


def arguments(monkeypatch: pytest.MonkeyPatch, build: str) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **values: given.update(values))
    monkeypatch.setenv("AVFUSION_BUILD", build)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_every_source_of_the_cpu_part_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    (extension,) = arguments(monkeypatch, "cpu")["ext_modules"]
    there = {
        str(path.relative_to(ROOT)) for path in (ROOT / "csrc/ops").rglob("*.cpp") if "cuda" not in path.parts
    }
    assert set(extension.sources) == there
    assert extension.name.startswith("avfusion.ops._C_torch2")


def test_libraries_of_the_toolkit_are_found_behind_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit, home = tmp_path / "cuda-13.0", tmp_path / "local"
    for folder in (toolkit / "bin", toolkit / "lib64", home / "bin"):
        folder.mkdir(parents=True)
    nvcc, script = toolkit / "bin" / "nvcc", home / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho '#$ TOP={toolkit}/bin/..' >&2\n")
    script.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    for file in (nvcc, script):
        file.chmod(0o755)
    monkeypatch.setattr(setuptools, "setup", lambda: None)
    monkeypatch.setenv("AVFUSION_BUILD", "none")
    toolkit_libraries = runpy.run_path(str(ROOT / "setup.py"))["toolkit_libraries"]
    assert toolkit_libraries(str(home)) == [str(toolkit / "lib64")]
    assert toolkit_libraries(str(tmp_path)) == toolkit_libraries(None) == []
    script.write_bytes(b"\x7fELF, but no program")
    assert toolkit_libraries(str(home)) == []


def test_nothing_is_built_when_nothing_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments(monkeypatch, "none") == {}


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="AVFUSION_BUILD must be none, auto, cpu or cuda, not 'gpu'"):
        arguments(monkeypatch, "gpu")


def test_without_a_compiler_the_package_installs_with_a_warning(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "src" / "avfusion" / "ops").mkdir(parents=True)
    environment = os.environ | {"PATH": str(tmp_path), "CXX": "no-such-compiler", "CC": "no-such-compiler"}
    environment.pop("AVFUSION_BUILD", None)
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        **{"cwd": tmp_path, "env": environment, "capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING: the C++ extension was not built" in done.stderr
    assert not list(tmp_path.rglob("*.so"))
