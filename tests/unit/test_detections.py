"""Detections: submission JSON and CSV, read, checked and written."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avfusion.data.detections import Detections, read_detections, write_detections
from avfusion.errors import InputError

HEADER = "video_id,label_index,label,start,end,score\n"


def submission(*rows: Any) -> str:
    return json.dumps({"results": {"first": [], "v": list(rows)}})


def row(**fields: Any) -> dict[str, Any]:
    return {"label": "Diving", "score": 0.5, "segment": [1.0, 2.0]} | fields


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_detections(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def as_rows(detections: Detections) -> list[tuple[Any, ...]]:
    columns = (detections.start, detections.end, detections.score)
    return [
        (detections.videos[v], detections.labels[c], *numbers)
        for v, c, *numbers in zip(
            detections.video, detections.label, *map(np.ndarray.tolist, columns), strict=True
        )
    ]


def test_csv_and_json_read_alike(tmp_path: Path) -> None:
    table = write(
        tmp_path / "a.csv", HEADER + "v,0,Diving,1.0,2.0,0.5\nw,1,Run,0,3.25,1e-3\nv,1,Run,2,2,-4\n"
    )
    content = {"v": [row(), row(label="Run", segment=[2, 2], score=-4)], "w": [row(label="Run", segment=[0, 3.25], score=1e-3)]}  # fmt: skip  # noqa: E501
    structured = write(tmp_path / "a.json", json.dumps({"version": "1", "results": content}))
    expected = [("v", "Diving", 1.0, 2.0, 0.5), ("w", "Run", 0.0, 3.25, 1e-3), ("v", "Run", 2.0, 2.0, -4.0)]
    assert as_rows(read_detections(table)) == expected
    assert sorted(as_rows(read_detections(structured))) == sorted(expected)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("byte_order_mark", [False, True])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, ending: str, byte_order_mark: bool) -> None:
    lines = [
        "score,start,video-id,end,label",
        '0.5,1.0,"v, 1",2.0,"Clean ""and"" Jerk"',
        "0.25,3,w,4,Run",
        "",
    ]
    text = ending.join(lines)
    path = write(tmp_path / "a.csv", text.encode("utf-8-sig" if byte_order_mark else "utf-8"))
    assert as_rows(read_detections(path)) == [
        ("v, 1", 'Clean "and" Jerk', 1.0, 2.0, 0.5),
        ("w", "Run", 3.0, 4.0, 0.25),
    ]


def test_the_content_tells_the_format(tmp_path: Path) -> None:
    assert (
        len(read_detections(write(tmp_path / "a.txt", gzip.compress((HEADER + "v,0,x,1,2,3\n").encode()))))
        == 1
    )
    assert len(read_detections(write(tmp_path / "b.csv", gzip.compress(submission(row()).encode())))) == 1


def test_no_detections(tmp_path: Path) -> None:
    assert len(read_detections(write(tmp_path / "a.csv", HEADER))) == 0
    empty = read_detections(write(tmp_path / "a.json", submission()))
    assert len(empty) == 0
    assert empty.videos == ("first", "v")


def test_writing_and_reading_keeps_every_digit_and_empty_videos(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 100, 50)
    detections = Detections(
        ("a", "none", "b"), ("x", "y"), np.sort(rng.choice([0, 2], 50)), rng.integers(0, 2, 50),
        start, start + rng.uniform(0, 9, 50), rng.normal(size=50),
    )  # fmt: skip
    path = tmp_path / "out.json"
    write_detections(path, detections)
    again = read_detections(path)
    assert as_rows(again) == as_rows(detections)
    assert again.videos == detections.videos
    assert json.loads(path.read_text())["results"]["none"] == []


@pytest.mark.parametrize(
    ("rows", "where", "words"),
    [
        ("v,0,Diving,1.0,2.0,nan\n", "line 2, column score", "'nan' is no finite number"),
        ("v,0,Diving,1.0,2.0,0.5\nv,0,Diving,1.0,inf,0.5\n", "line 3, column end", "'inf'"),
        ("v,0,Diving,1.0,2.0,0.5\nv,0,Diving,early,2,0.5\n", "line 3, column start", "'early' is no finite"),
        ("v,0,Diving,1.0,2.0,\n", "line 2, column score", "'' is no finite number"),
        ("v,0,Diving,1.0,2.0,0.5\nv,0,Diving,1.0\n", "line 3", "4 cells, but the header has 6"),
        (
            "v,0,Diving,1.0,2.0,0.5,extra\nv,0,Diving,1.0,2.0\n",
            "line 2",
            "7 cells",
        ),  # the right number of cells
        ('v,0,"Diving\nx",1.0,2.0,0.5\nv,0,Diving,1.0,2.0,none\n', "line 4, column score", "'none'"),
        ("\nv,0,Diving,1.0,2.0,none\n", "line 3, column score", "'none'"),
        (",0,Diving,1.0,2.0,0.5\n", "line 2, column video_id", "is empty"),
        ("v,0,,1.0,2.0,0.5\n", "line 2, column label", "is empty"),
    ],
)
def test_bad_csv_rows(tmp_path: Path, rows: str, where: str, words: str) -> None:
    message = complaint(write(tmp_path / "a.csv", HEADER + rows))
    assert f": {where}: " in message
    assert words in message


@pytest.mark.parametrize(
    ("header", "words"),
    [("", "no column video_id, label, start, end, score"), ("video_id,label,start,end\n", "no column score")],
)
def test_missing_columns(tmp_path: Path, header: str, words: str) -> None:
    message = complaint(write(tmp_path / "a.csv", header))
    assert "line 1: " in message
    assert words in message


@pytest.mark.parametrize(
    ("value", "where", "words"),
    [
        (row(score=float("nan")), "results.v[1].score", "the score nan is not finite"),
        (row(segment=[1, float("inf")]), "results.v[1].segment", "is not finite"),
        (row(score="high"), "results.v[1].score", "'high'"),
        (row(score=None), "results.v[1].score", "None"),
        (row(segment=[2.0]), "results.v[1].segment", "[start, end]"),
        (row(segment=3), "results.v[1].segment", "[start, end]"),
        (row(label=3), "results.v[1].label", "name of a class"),
        (row(label=["x"]), "results.v[1].label", "name of a class"),
        ({"label": "x", "score": 1}, "results.v[1].segment", "missing"),
        ({"label": "x", "segment": [1, 2]}, "results.v[1].score", "missing"),
        ({"score": 1, "segment": [1, 2]}, "results.v[1].label", "missing"),
        ("Diving", "results.v[1]", "object"),
    ],
)
def test_bad_json_rows(tmp_path: Path, value: Any, where: str, words: str) -> None:
    message = complaint(write(tmp_path / "a.json", submission(row(), value)))
    assert f": {where}: " in message
    assert words in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"results": {"v": [', "line 1, column"),
        ('{"results": []}', "results: must be an object"),
        ("[]", "results: must be an object"),
        ('{"results": {"v": {}}}', "results.v: must be a list"),
        (b"\x00\xff\xfe binary", "UTF-8"),
        (b"\x1f\x8b broken", "gzip"),
    ],
)
def test_what_holds_no_detections(tmp_path: Path, content: str | bytes, words: str) -> None:
    assert words in complaint(write(tmp_path / "a.json", content))


def test_columns_must_agree() -> None:
    one, two = np.zeros(1), np.zeros(2)
    index = np.zeros(2, dtype=np.int64)
    with pytest.raises(ValueError, match="equally long"):
        Detections(("v",), ("x",), index, index, two, two, one)
    with pytest.raises(InputError, match="the score nan is not finite"):
        Detections(("v",), ("x",), index, index, two, two, np.array([0, np.nan]))


def test_reversed_segments_are_kept_with_one_warning(tmp_path, caplog):
    path = tmp_path / "detections.csv"
    path.write_text("video_id,label,start,end,score\nv,Diving,2.0,1.0,0.5\nv,Diving,5,4,0.4\n")
    with caplog.at_level("WARNING", logger="avfusion"):
        assert len(read_detections(path)) == 2
    (record,) = caplog.records
    assert f"{path}: line 2: [2, 1] ends before it starts (and 1 more like it)" in record.getMessage()
