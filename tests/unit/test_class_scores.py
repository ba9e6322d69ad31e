"""Class scores of videos and of proposals, from JSON and HDF5."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from avfusion.data.class_scores import read_class_scores, write_class_scores
from avfusion.errors import InputError

LABELS = ["jump", "run", "sit"]


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(content))
    return path


def test_scores_by_label(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": {"sit": 0.5, "jump": 1}, "b": {}})
    scores = read_class_scores(path, LABELS)
    assert {video: value.tolist() for video, value in scores.items()} == {"a": [1, 0, 0.5], "b": [0, 0, 0]}


def test_scores_as_lists_of_label_and_score(tmp_path: Path) -> None:
    rows = [{"label": "run", "score": 0.7}, {"label": "jump", "score": "0.2"}]
    scores = read_class_scores(written(tmp_path, {"version": "1", "results": {"a": rows}}), LABELS)
    assert scores["a"].tolist() == [0.2, 0.7, 0]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    scores = {"a": np.array([0.1, 0.2, 0.7]), "b": np.eye(3)[:2], "c": np.zeros((0, 3))}
    write_class_scores(tmp_path / "scores.h5", scores, LABELS)
    found = read_class_scores(tmp_path / "scores.h5", LABELS)
    assert list(found) == list(scores)
    for video, value in scores.items():
        np.testing.assert_array_equal(found[video], value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "scores.json: must be an object that maps video ids to scores by label$"),
        ({"a": 3}, "scores.json: a: must be scores by label, or a list"),
        ({"a": {"jmp": 1}}, "a.jmp: there is no class 'jmp'; did you mean 'jump'?"),
        ({"a": {"run": "high"}}, "a.run: must be a finite number, not 'high'"),
        ({"a": {"run": True}}, "a.run: must be a finite number, not True"),
        ({"results": {"a": [{"label": "run"}]}}, r"results.a\[0\]: must be an object with label and score"),
        (
            {"results": {"a": [{"label": "x", "score": 1}]}},
            r"results.a\[0\]: there is no class 'x'; known: jump",
        ),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_class_scores(written(tmp_path, content), LABELS)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: there is no such file"):
        read_class_scores(tmp_path / "none.json", LABELS)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="line 1, column 2: is not valid JSON"):
        read_class_scores(tmp_path / "broken.json", LABELS)


def test_hdf5_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.h5"
    write_class_scores(path, {"a": np.zeros(3)}, LABELS)
    with pytest.raises(InputError, match="labels: scores 3 classes other than the 2 wanted"):
        read_class_scores(path, LABELS[:2])
    write_class_scores(path, {"a": np.zeros(2)}, LABELS)
    with pytest.raises(InputError, match=r"a: shape \(2,\), expected \(3,\) or \(N, 3\)"):
        read_class_scores(path, LABELS)
    write_class_scores(path, {"a": np.array([0, np.nan, 0])}, LABELS)
    with pytest.raises(InputError, match="a: holds a score that is not finite"):
        read_class_scores(path, LABELS)
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3)
    with pytest.raises(InputError, match="HDF5 file of class scores"):
        read_class_scores(path, LABELS)
