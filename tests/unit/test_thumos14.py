"""THUMOS14's annotations: the organisers' texts say what the tables say; protocols of the literature."""

from collections import Counter
from pathlib import Path

import pytest
from web.server import WebServer
from web.thumos14 import annotation_zip, table_rows
from web.zips import plain_zip

from avfusion.cli.main import main
from avfusion.data.annotation_source import obtain_annotations
from avfusion.data.annotations import Annotations, examine_annotations, read_annotations, write_annotations
from avfusion.errors import InputError

TEXTS = {
    "annotation/CliffDiving_test.txt": b"v1  1.0 2.0\n",
    "annotation/Diving_test.txt": b"v1  1.0 2.0\nv1  5.0 6.5\nvideo_test_0000270  1 2\n",
    "annotation/Ambiguous_test.txt": b"video_test_0001292 3.0 4.0\n",
    "annotation/Diving_val.txt": b"w1 0.1 0.2\n",
}


def read(folder: Path, texts: dict[str, bytes], **options: object) -> tuple[Annotations, list[InputError]]:
    path = folder / "texts.zip"
    path.write_bytes(plain_zip(texts))
    return examine_annotations([path], "thumos14", options)


def instances(annotations: Annotations) -> set[tuple[str, str, float, float]]:
    return {(v, i.label, i.start, i.end) for v, a in annotations.videos.items() for i in a.instances}


def test_the_real_texts_equal_the_tables(shared: Path, tmp_path: Path) -> None:
    folder = shared / "thumos14" / "annotations"
    tables = read_annotations(folder)
    with WebServer() as server:
        urls = [
            server.put(f"/{s}.zip", annotation_zip(table_rows(folder / f"{s}_Annotation.csv"), s))
            for s in ("val", "test")
        ]
        texts = obtain_annotations(
            {"path": urls, "format": "thumos14"}, tmp_path, ["val", "test"], "thumos14.yaml"
        )
    assert texts.labels == tables.labels
    assert texts.videos.keys() == tables.videos.keys()
    assert len(texts.subset("test").videos) == 213 and len(texts.subset("val").videos) == 200
    assert texts.subset("val").instances() == 3007 and texts.subset("test").instances() == 3358
    for video, value in tables.videos.items():
        assert texts.videos[video].subset == value.subset
        assert Counter(texts.videos[video].instances) == Counter(value.instances)


def test_evaluation_on_the_real_texts_gives_the_golden_figures(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "thumos14" / "annotations"
    archive = tmp_path / "TH14_Temporal_annotations_test.zip"
    archive.write_bytes(annotation_zip(table_rows(folder / "test_Annotation.csv"), "test"))
    annotations = tmp_path / "annotations.json"
    found, problems = examine_annotations([archive], "thumos14", {"protocol": 212})
    assert not problems
    write_annotations(annotations, found)
    detections = str(shared / "thumos14" / "tal-hmo-detections.csv.gz")
    assert main(["evaluate", detections, "--annotations", str(annotations)]) == 0
    figures = capsys.readouterr().out.splitlines()[1].split()[2:7]
    assert figures == ["68.88", "63.72", "56.90", "46.15", "29.90"]
    assert main(["evaluate", detections, "--annotations", str(archive)]) == 0


@pytest.mark.parametrize(
    ("protocol", "videos"),
    [
        (213, {"v1", "video_test_0000270", "video_test_0001292"}),
        (212, {"v1", "video_test_0000270"}),
        (211, {"v1"}),
    ],
)
def test_protocols(tmp_path: Path, protocol: int, videos: set[str]) -> None:
    annotations, problems = read(tmp_path, TEXTS, protocol=protocol)
    assert not problems
    assert annotations.subset("test").videos.keys() == videos
    assert annotations.labels == ("CliffDiving", "Diving")
    assert annotations.subset("val").videos.keys() == {"w1"}


def test_protocols_of_the_real_data(shared: Path) -> None:
    folder = shared / "thumos14" / "annotations"
    for protocol in (213, 212, 211):
        tables, problems = examine_annotations([folder], None, {"protocol": protocol})
        assert not problems
        assert len(tables.subset("test").videos) == protocol
    assert tables.subset("test").instances() < 3358


def test_cliff_diving_is_diving_too_unless_told_otherwise(tmp_path: Path, shared: Path) -> None:
    both, _ = read(tmp_path, TEXTS)
    once, _ = read(tmp_path, TEXTS, cliff_diving="once")
    assert instances(both) - instances(once) == {("v1", "Diving", 1.0, 2.0)}
    tables, _ = examine_annotations([shared / "thumos14" / "annotations"], None, {"cliff_diving": "once"})
    assert tables.subset("val").instances() == 3007 - 143
    assert tables.subset("test").instances() == 3358 - 217


def test_all_bad_lines_are_told_with_their_place(tmp_path: Path) -> None:
    texts = {"a/Diving_val.txt": b"v 1.0 2.0\nv 3.0\n\nv 5.0 4.0\nv a b\n", "a/Run_test.txt": b"v 1 2\nw 1\n"}
    _, problems = read(tmp_path, texts)
    archive = tmp_path / "texts.zip"
    assert [str(problem) for problem in problems] == [
        f"{archive}: a/Run_test.txt: line 2: must be a video id, a start and an end, not 'w 1'",
        f"{archive}: a/Diving_val.txt: line 1: the video 'v' is in subset 'val' here, and in 'test' above",
        f"{archive}: a/Diving_val.txt: line 2: must be a video id, a start and an end, not 'v 3.0'",
        f"{archive}: a/Diving_val.txt: line 4: the video 'v' is in subset 'val' here, and in 'test' above",
        f"{archive}: a/Diving_val.txt: line 4: the segment ends at 4 s, before it starts at 5 s",
        f"{archive}: a/Diving_val.txt: line 5: must be a video id, a start and an end, not 'v a b'",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": 210}, "protocol: must be 213, 212, 211"),
        ({"cliff_diving": "never"}, "annotations.cliff_diving: must be both or once"),
        ({"protokol": 213}, "unknown option 'protokol'; did you mean 'protocol'?"),
    ],
)
def test_options_that_are_none(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, TEXTS, **options)
    assert message in str(caught.value)


def test_what_holds_no_texts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no <Class>_val.txt or <Class>_test.txt"):
        read(tmp_path, {"readme.txt": b"hello"})
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"broken\.zip: is no ZIP archive"):
        examine_annotations([broken])
    with pytest.raises(InputError, match="do not trust this archive"):
        read(tmp_path, {**TEXTS, "../Evil_test.txt": b"v 1 2\n"})
