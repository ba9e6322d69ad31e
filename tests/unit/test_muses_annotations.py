"""The adapter for MUSES: numbered classes, frames in place of seconds; the example of the guide."""

import json
from pathlib import Path
from typing import Any

import pytest

from avfusion.data.annotations import Annotations, Instance, examine_annotations
from avfusion.errors import InputError

CLASSES = [f"event{k:02d}" for k in range(1, 26)]


def write(folder: Path, database: Any) -> Path:
    path = folder / "muses.json"
    path.write_text(json.dumps({"database": database}, indent=1))
    return path


def video(*rows: tuple[object, float, float], **fields: object) -> dict[str, object]:
    rows_ = [{"label": label, "segment": [start, end]} for label, start, end in rows]
    return {"subset": "train", "annotations": rows_, **fields}


def read(path: Path, **options: object) -> tuple[Annotations, list[str]]:
    annotations, problems = examine_annotations([path], "muses", options)
    return annotations, [str(problem).removeprefix(f"{path}: ") for problem in problems]


def test_numbers_become_names_and_frames_become_seconds(tmp_path: Path) -> None:
    path = write(tmp_path, {"v": video((1, 0.5, 2.0), (25, 3.0, 9.5), frames=1000, fps=25.0)})
    annotations, problems = read(path, classes=CLASSES)
    assert not problems
    assert annotations.labels == tuple(CLASSES)
    assert annotations.videos["v"].duration == 40.0
    assert annotations.videos["v"].instances == (Instance(0.5, 2.0, "event01"), Instance(3.0, 9.5, "event25"))


def test_names_are_names(tmp_path: Path) -> None:
    annotations, problems = read(write(tmp_path, {"v": video(("fight", 1, 2), duration=9)}))
    assert not problems
    assert annotations.labels == ("fight",)


def test_what_does_not_fit_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, {"v": video((26, 1, 2), (3, 5, 4)), "w": {"subset": "test"}})
    assert read(path, classes=CLASSES)[1] == [
        "line 6, database.v.annotations[0].label: must be the name of a class",
        "line 15, database.v.annotations[1].segment: the segment ends at 4 s, before it starts at 5 s",
        "line 22, database.w.annotations: must be a list, empty if nothing happens in the video",
    ]


def test_more_classes_than_muses_has(tmp_path: Path) -> None:
    rows = [(f"class {k}", k, k + 1) for k in range(26)]
    assert read(write(tmp_path, {"v": video(*rows)}))[1] == [
        "line 2, database: has 26 classes, where MUSES has 25"
    ]


def test_classes_are_25_or_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="classes: must be 25 names, or none"):
        read(write(tmp_path, {}), classes=["a"])


def test_keys_that_stand_twice_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    one = '"subset": "test", "annotations": []'
    path.write_text(f'{{"database": {{\n "v": {{{one}}},\n "w": {{{one}}},\n "v": {{{one}}}\n}}}}')
    _, problems = examine_annotations([path])
    assert [str(problem) for problem in problems] == [
        f"{path}: line 4: the key 'database.v' stands here a second time"
    ]
