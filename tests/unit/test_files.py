"""Whole-or-not-at-all writes, hashes, and seeds."""

import hashlib
import json
import os
import random
import stat
from pathlib import Path

import numpy as np
import pytest

from avfusion.files import atomic_path, sha256, write_json, write_text
from avfusion.seeding import derive, seed_everything


def test_a_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "result.json"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.suffix == ".json"
        assert temporary.parent == path.parent
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the one that finished last


def test_results_are_as_readable_as_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_text(tmp_path / "result.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "result.txt").stat().st_mode) == 0o644


def test_json_holds_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": [1, 0.1], "b": "é"})
    assert json.loads(path.read_text()) == {"a": [1, 0.1], "b": "é"}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text())["a"] == [1, 0.1]


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    assert sha256(path) == hashlib.sha256(b"x" * 100_000).hexdigest()


def test_seeds_differ_by_part_and_stay_the_same() -> None:
    seeds = [derive(0), derive(1), derive(0, "train"), derive(0, "train", 1), derive(0, "test")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive(7, "demo", 3) == 875615948  # a change would change every result


def test_seed_everything_repeats() -> None:
    torch = pytest.importorskip("torch")

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(1))

    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert draw() != first
