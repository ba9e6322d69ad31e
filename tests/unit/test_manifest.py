"""The manifest: written and read whole, with complaints by line and column."""

from pathlib import Path

import numpy as np
import pytest

from avfusion.data.annotations import Annotations, VideoAnnotation
from avfusion.data.manifest import (
    COLUMNS,
    ManifestRow,
    count_silent,
    read_manifest,
    rows_of_annotations,
    shard_of,
    write_manifest,
)
from avfusion.errors import InputError

ROWS = [
    ManifestRow("a", "test", "media/a  b.mp4", 18.04, 30000 / 1001, 541, True, 44100, "00ff"),
    ManifestRow("b", "train", 'media/"b".mp4', status="no video track"),
]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "manifest.tsv"
    write_manifest(path, ROWS)
    assert read_manifest(path) == ROWS
    assert [row.ok for row in ROWS] == [True, False]
    assert path.read_text().splitlines()[0] == "\t".join(COLUMNS)
    write_manifest(path, [])
    assert read_manifest(path) == []


def test_a_reason_of_several_lines_and_numpy_numbers_stay_one_row(tmp_path: Path) -> None:
    path = tmp_path / "manifest.tsv"
    row = ManifestRow(
        "a", "test", "a.mp4", np.float64(1.5), np.float32(25), np.int64(3), np.bool_(True), status="x\n\ty"
    )  # type: ignore[arg-type]
    write_manifest(path, [row])
    assert len(path.read_text().splitlines()) == 2
    assert read_manifest(path) == [ManifestRow("a", "test", "a.mp4", 1.5, 25.0, 3, True, status="x y")]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("18.04", "long", "line 2, column duration: 'long' is no number of 0 or more"),
        ("18.04", "nan", "line 2, column duration"),
        ("18.04", "-1", "line 2, column duration"),
        ("541", "541.5", "line 2, column frames: '541.5' is no whole number"),
        ("\t1\t44100", "\tyes\t44100", "line 2, column has_audio: 'yes' is no 0 or 1"),
        ("b\ttrain", "a\ttrain", "line 3, column id: video id 'a' occurs twice"),
        ("b\ttrain", "\ttrain", "line 3, column id: the video id is empty"),
        ("b\ttrain", "btrain", "line 3: 9 cells, but the header has 10"),
        ("fps", "rate", "line 1: no column fps"),
    ],
)
def test_bad_manifests(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "manifest.tsv"
    write_manifest(path, ROWS)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: {words}")


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_manifest(tmp_path / "manifest.tsv")


def test_shards_divide_the_rows() -> None:
    rows = [ManifestRow(str(k), "test", "") for k in range(10)]
    shards = [shard_of(rows, k, 4) for k in range(4)]
    assert sorted((row.id for shard in shards for row in shard), key=int) == [row.id for row in rows]
    assert {len(shard) for shard in shards} == {2, 3}
    with pytest.raises(ValueError, match="no shard 4 of 4"):
        shard_of(rows, 4, 4)


def test_silent_videos_are_counted(tmp_path: Path) -> None:
    rows = [
        ManifestRow("heard", "test", "a.mp4", has_audio=True),
        ManifestRow("silent", "test", "b.mp4"),
        ManifestRow("broken", "test", "c.mp4", status="empty"),
        ManifestRow("unknown", "test", ""),
        ManifestRow("elsewhere", "train", "d.mp4"),
    ]
    write_manifest(tmp_path / "m.tsv", rows)
    assert count_silent(tmp_path / "m.tsv", "test") == (1, 3)


def test_videos_without_media_are_as_long_as_the_annotations_say() -> None:
    videos = {
        "a": VideoAnnotation("train", 12.5),
        "b": VideoAnnotation("test", None),
        "c": VideoAnnotation("val", 3.0),
    }
    rows = rows_of_annotations(Annotations(videos, ()), ["test", "train"])
    assert [(row.id, row.subset, row.duration, row.status) for row in rows] == [
        ("b", "test", 0.0, "the annotations do not say how long it is"),
        ("a", "train", 12.5, "ok"),
    ]
