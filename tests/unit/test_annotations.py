"""Annotations: ActivityNet JSON and THUMOS14 tables, read, checked and written."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from avfusion.data.annotations import (
    Annotations,
    Instance,
    VideoAnnotation,
    clip_to_duration,
    read_annotations,
    write_annotations,
)
from avfusion.errors import InputError


def row(start: Any = 1.0, end: Any = 2.5, label: Any = "Diving") -> dict[str, Any]:
    return {"label": label, "segment": [start, end]}


def video(*rows: Any, **fields: Any) -> dict[str, Any]:
    return {"subset": "test", "duration": 10.0, "annotations": list(rows)} | fields


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_database(folder: Path, **videos: Any) -> Path:
    return write(folder / "annotations.json", {"database": videos})


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_annotations(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reading_and_writing_keeps_everything(tmp_path: Path) -> None:
    annotations = Annotations(
        {
            "b": VideoAnnotation("test", 10.25, (Instance(1.1, 2.0, "Jump"), Instance(0.0, 10.0, "Run"))),
            "a": VideoAnnotation("train", None, ()),
        },
        ("Run", "Jump", "Never"),
    )
    path = tmp_path / "annotations.json"
    write_annotations(path, annotations)
    again = read_annotations(path)
    assert dict(again.videos) == dict(annotations.videos)
    assert list(again.videos) == ["b", "a"]
    assert again.labels == annotations.labels


def test_activitynet_json_may_be_gzipped_and_hold_other_fields(tmp_path: Path) -> None:
    content = {
        "version": "1.3",
        "taxonomy": [],
        "database": {"v": video(row(label="b"), row(label="a"), url="x")},
    }
    path = tmp_path / "activity_net.json"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    annotations = read_annotations(path)
    assert annotations.labels == ("a", "b")
    assert annotations.videos["v"].instances[0] == Instance(1.0, 2.5, "b")


def test_times_written_as_text_are_numbers(tmp_path: Path) -> None:
    path = write_database(tmp_path, v=video(row("18.6", "24.8"), duration=None))
    assert read_annotations(path).videos["v"] == VideoAnnotation(
        "test", None, (Instance(18.6, 24.8, "Diving"),)
    )


def test_subset_keeps_labels_and_knows_what_it_left_out(tmp_path: Path) -> None:
    path = write_database(tmp_path, a=video(row()), b=video(row(label="Run"), subset="train"), c=video())
    test = read_annotations(path).subset("test")
    assert list(test.videos) == ["a", "c"]
    assert test.labels == ("Diving", "Run")
    assert test.elsewhere == {"b"}
    assert test.subset("test").elsewhere == {"b"}
    assert test.instances() == 1


def test_unknown_subset_names_the_file_and_the_subsets(tmp_path: Path) -> None:
    path = write_database(tmp_path, a=video(), b=video(subset="validation"))
    with pytest.raises(InputError) as caught:
        read_annotations(path).subset("Validaton")
    assert str(path) in str(caught.value)
    assert "did you mean 'validation'?" in str(caught.value)
    assert "test (1 videos), validation (1 videos)" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        (video(row(), row(3.0, 2.0)), "database.v.annotations[1].segment", "before it starts"),
        (video(row(-1.0, 2.0)), "database.v.annotations[0].segment", "before the video"),
        (video(row("soon", 2.0)), "database.v.annotations[0].segment", "finite numbers"),
        (video(row(1.0, float("nan"))), "database.v.annotations[0].segment", "finite numbers"),
        (video(row(1.0, True)), "database.v.annotations[0].segment", "finite numbers"),
        (video({"label": "x", "segment": [1.0]}), "database.v.annotations[0].segment", "[start, end]"),
        (video({"label": "x"}), "database.v.annotations[0].segment", "[start, end]"),
        (video(row(label=" ")), "database.v.annotations[0].label", "name of a class"),
        (video(row(label=7)), "database.v.annotations[0].label", "name of a class"),
        (video("Diving"), "database.v.annotations[0]", "object"),
        (video(annotations=None), "database.v.annotations", "list"),
        (video(subset=""), "database.v.subset", "subset"),
        ({"annotations": []}, "database.v.subset", "subset"),
        (video(duration=0), "database.v.duration", "positive"),
        (video(duration="long"), "database.v.duration", "positive"),
        ([], "database.v", "object"),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(
    tmp_path: Path, value: Any, field: str, words: str
) -> None:
    path = write_database(tmp_path, v=value)
    message = complaint(path)
    assert message.startswith(f"{path}: {field}: ")
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"database": {', "line 1, column"),
        ("[]", "database"),
        ('{"database": []}', "database"),
        ("[" * 100_000, "no JSON that can be used"),
        ('{"database": {}, "labels": ["a", 1]}', "labels"),
        (json.dumps({"database": {"v": video(row(label="b"))}, "labels": ["a"]}), "labels: lacks b"),
    ],
)
def test_what_is_no_activitynet_json(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path / "annotations.json", text)
    message = complaint(path)
    assert message.startswith(str(path))
    assert words in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "missing.json")
    latin = tmp_path / "latin.json"
    latin.write_bytes('{"database": {\n"é"'.encode("latin-1"))
    assert "line 2: is not UTF-8" in complaint(latin)
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(gzip.compress(b"{}" * 1000)[:-12])
    assert "damaged or truncated gzip" in complaint(cut)


def test_segments_past_the_end_are_kept_and_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_database(tmp_path, v=video(row(9.0, 10.5), row(9.0, 30.0), row(20.0, 30.0), row(4.0, 4.0)))
    with caplog.at_level(logging.WARNING, "avfusion"):
        annotations = read_annotations(path)
    assert annotations.instances() == 4
    late, empty = (record.getMessage() for record in caplog.records)
    assert str(path) in late
    assert "v: annotations[1].segment: [9, 30] reaches past the end of the video (10 s) (and 1 more" in late
    assert "v: annotations[3].segment: [4, 4] has no length" in empty


def test_clipping_for_training() -> None:
    instances = (Instance(9, 30, "a"), Instance(20, 30, "a"), Instance(4, 4, "a"), Instance(1, 2, "a"))
    annotations = Annotations(
        {"v": VideoAnnotation("t", 10.0, instances), "w": VideoAnnotation("t", None, instances)}, ("a",)
    )
    clipped = clip_to_duration(annotations)
    assert clipped.videos["v"].instances == (Instance(9, 10, "a"), Instance(1, 2, "a"))
    assert clipped.videos["w"].instances == (instances[0], instances[1], instances[3])


TABLE = "video,type,type_idx,start,end,startFrame,endFrame\n"


def write_tables(folder: Path, rows: str, info: str | None = None) -> Path:
    write(folder / "test_Annotation.csv", TABLE + rows)
    if info is not None:
        write(folder / "test_video_info.csv", "video,fps,sample_fps,count,sample_count\n" + info)
    return folder


def test_thumos14_tables(tmp_path: Path) -> None:
    rows = "v1,Diving,26,0.5,1.5,15,45\nv2,Ambiguous,102,1.0,2.0,30,60\nv1,Ambiguous,102,1.0,2.0,30,60\n"
    write_tables(tmp_path, rows, "v1,30.0,10.0,300.0,100\nv3,25.0,10.0,50.0,20\n")
    write(tmp_path / "val_Annotation.csv", TABLE + "v4,Run,1,0.0,1.0,0,30\n")
    annotations = read_annotations(tmp_path)
    assert annotations.labels == ("Diving", "Run")
    assert annotations.subsets == {"test": 3, "val": 1}
    assert annotations.videos["v1"] == VideoAnnotation("test", 10.0, (Instance(0.5, 1.5, "Diving"),))
    assert annotations.videos["v2"] == VideoAnnotation("test", None, ())
    assert annotations.videos["v3"] == VideoAnnotation("test", 2.0, ())


@pytest.mark.parametrize(
    ("rows", "info", "words"),
    [
        ("v,Diving,26,2.0,1.0,0,0\n", None, "test_Annotation.csv: line 2: the segment ends at 1 s, before"),
        (
            "v,Diving,26,0,1,0,0\nv,Diving,26,x,1.0,0,0\n",
            None,
            "line 3, column start: 'x' is no finite number",
        ),
        ("v,Diving,26,0,1,0,0\nv,Diving,26,0\n", None, "line 3: 4 cells, but the header has 7"),
        ("v,,26,0,1,0,0\n", None, "line 2, column type: is empty"),
        (
            "v,Diving,26,0,1,0,0\n",
            "v,0,10,300,1\n",
            "test_video_info.csv: line 2: fps and count must be above 0",
        ),
    ],
)
def test_bad_thumos14_tables(tmp_path: Path, rows: str, info: str | None, words: str) -> None:
    assert words in complaint(write_tables(tmp_path, rows, info))


def test_bad_thumos14_folders(tmp_path: Path) -> None:
    assert "holds no <subset>_Annotation.csv" in complaint(tmp_path)
    write(tmp_path / "test_Annotation.csv", "video,kind,start,end\n")
    assert "line 1: no column type" in complaint(tmp_path)
    write_tables(tmp_path, "v,Diving,26,0,1,0,0\n")
    write(tmp_path / "val_Annotation.csv", TABLE + "v,Run,1,0.0,1.0,0,30\n")
    assert "val_Annotation.csv: line 2: the video 'v' is in subset 'val' here" in complaint(tmp_path)
