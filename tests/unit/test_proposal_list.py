"""Proposal lists: what is said of every kind of bad line, times, and computed columns."""

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.data.proposal_list import (
    ListedVideo,
    listed_video,
    match,
    proposals_from_list,
    proposals_to_list,
    read_proposal_list,
    seconds,
    write_proposal_list,
)
from avfusion.data.proposals import read_proposals, write_proposals
from avfusion.errors import InputError

LIST = """\
# 1
folder/clip_a
1800
1
1
9 1304 1360
2
9 0.7714 0.7941 1306 1374
0 0.0000 0.0000 120 271
# 2
clip_b
76.5
25
0
1
0 0.0000 0.0000 50 100
"""
LINES = LIST.splitlines()


def write(folder: Path, text: str) -> Path:
    path = folder / "list.txt"
    path.write_text(text)
    return path


def read(path: Path) -> list[ListedVideo]:
    return list(read_proposal_list(path))


def test_reading(tmp_path: Path) -> None:
    first, second = read(write(tmp_path, LIST))
    assert (first.id, first.path, first.frames, first.fps) == ("clip_a", "folder/clip_a", 1800, None)
    assert (second.id, second.frames, second.fps) == ("clip_b", 1912, 25)
    assert first.classes.tolist() == [9] and first.instances.tolist() == [[1304, 1360]]
    assert first.labels.tolist() == [9, 0] and first.proposals.tolist() == [[1306, 1374], [120, 271]]
    assert first.iou.tolist() == [0.7714, 0] and first.overlap.tolist() == [0.7941, 0]
    assert second.instances.shape == (0, 2)


def test_a_gzipped_list_with_other_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "list.txt.gz"
    path.write_bytes(gzip.compress(("\ufeff" + LIST + "\n\n").replace("\n", "\r\n").encode()))
    assert [video.id for video in read(path)] == ["clip_a", "clip_b"]


def test_a_list_is_read_video_by_video(tmp_path: Path) -> None:
    videos = read_proposal_list(write(tmp_path, "\n".join([*LINES[:9], "nonsense"])))
    assert next(videos).id == "clip_a"
    with pytest.raises(InputError, match="line 10"):
        next(videos)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "video", "line 1: 'video' stands where a video begins with '# number'$"),
        (3, "many", r"line 3: the length \(frames, or seconds\) must be a number above 0, not 'many'"),
        (3, "-4", "line 3: the length .* must be a number above 0, not '-4'"),
        (3, "0.5", "line 4: a length of 0.5 at a rate of 1 is less than one frame"),
        (4, "0", r"line 4: the rate \(1, or frames per second\) must be a number above 0, not '0'"),
        (5, "1.5", "line 5: the number of instances must be a whole number, not '1.5'"),
        (5, "", "line 5: is empty; the number of instances should stand here"),
        (
            6,
            "9 1304",
            "line 6: '9 1304' has 2 values; of the instances every line has 3 values: label",
        ),
        (6, "0 1304 1360", "line 6: classes of instances count from 1"),
        (
            8,
            "9 0.77 1306 1374",
            "line 8: .* has 4 values; of the proposals every line has 5 values",
        ),
        (8, "9 0.77 x 1306 1374", "line 8: overlap must be a number, not 'x'"),
        (9, "9 0.77 0.5 nan 1374", "line 9: start must be a number, not 'nan'"),
        (9, "9.5 0.77 0.5 2 1374", "line 9: label must be a whole number of 0 or more, not '9.5'"),
        (9, "-1 0.77 0.5 2 1374", "line 9: label must be a whole number of 0 or more, not '-1'"),
        (9, "9 1.77 0.5 2 1374", r"line 9: best_iou and overlap must be in \[0, 1\]"),
        (
            7,
            "1",
            "line 9: '0 0.0000 .*' stands where .*; the counts of the video before do not fit",
        ),
        (7, "3", "line 10: 'clip_a' should have 3 proposals, but only 2 stand here"),
        (11, "other/clip_a", "line 11: the video 'clip_a' stands in line 2 already"),
        (15, "2", "line 17: the file ends where number 2 of 2 proposals of 'clip_b' should stand"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: int, text: str, message: str) -> None:
    lines = [*LINES]
    lines[line - 1] = text
    with pytest.raises(InputError, match=message):
        read(write(tmp_path, "\n".join(lines)))


def test_unknown_videos_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"line 11: .* 'clip_b' is not in the dataset; did you mean 'clip_c'"
    ):
        list(read_proposal_list(write(tmp_path, LIST), {"clip_a", "clip_c"}))


def test_files_that_are_no_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match="line 1: holds no video"):
        read(write(tmp_path, "\n"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read(tmp_path / "binary")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(LIST.encode())[:40])
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "cut.gz")


def test_writing_is_reading_backwards(tmp_path: Path) -> None:
    source = write(tmp_path, LIST)
    write_proposal_list(tmp_path / "copy.txt", read_proposal_list(source))
    assert (tmp_path / "copy.txt").read_text() == LIST


def test_nothing_is_written_of_a_broken_list(tmp_path: Path) -> None:
    source = write(tmp_path, "\n".join([*LINES[:9], "nonsense"]))
    with pytest.raises(InputError):
        write_proposal_list(tmp_path / "copy.txt", read_proposal_list(source))
    assert not (tmp_path / "copy.txt").exists()


def test_columns_are_those_of_the_best_instance() -> None:
    proposals = np.array([[0.0, 10.0], [5.0, 15.0], [40.0, 50.0], [7.0, 7.0]])
    labels, iou, overlap = match(proposals, np.array([[0.0, 8.0], [4.0, 24.0]]), np.array([3, 5]))
    assert labels.tolist() == [3, 5, 0, 0]
    np.testing.assert_allclose(iou, [0.8, 0.5, 0, 0])
    np.testing.assert_allclose(overlap, [0.8, 1, 0, 0])
    assert match(proposals, np.zeros((0, 2)), np.zeros(0, dtype=np.int64))[0].tolist() == [0] * 4


@pytest.mark.parametrize(("header", "length"), [("duration", ("10.02", "25")), ("frames", ("250", "1"))])
def test_from_seconds_and_back(tmp_path: Path, header: str, length: tuple[str, str]) -> None:
    proposals, instances = np.array([[0.0, 2.0], [4.0, 6.04]]), np.array([[4.0, 6.0]])
    video = listed_video("clip", 10.02, 25, proposals, instances, np.array([0]), header)  # type: ignore[arg-type]
    path = tmp_path / "list.txt"
    write_proposal_list(path, [video])
    assert tuple(path.read_text().splitlines()[2:4]) == length
    (again,) = read(path)
    assert again.classes.tolist() == [1] and again.labels.tolist() == [0, 1]
    assert again.iou.tolist() == [0, 0.9804] and again.overlap.tolist() == [0, 0.9804]
    found = proposals_from_list(path, {"clip": 10.0})["clip"]
    np.testing.assert_allclose(found, proposals)


def test_times_need_a_rate_or_a_duration(tmp_path: Path) -> None:
    first, second = read(write(tmp_path, LIST))
    np.testing.assert_allclose(seconds(first, first.proposals, 90.0)[1], [6.0, 13.55])
    np.testing.assert_allclose(seconds(second, second.proposals), [[2, 4]])
    with pytest.raises(InputError, match="clip_a: the length of 'clip_a' in seconds is not known"):
        proposals_from_list(tmp_path / "list.txt", {"clip_a": None, "clip_b": None})


def test_proposals_of_a_list_are_an_artefact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = LIST.replace("120 271", "271 271").replace("1306 1374", "1306 1900")
    with caplog.at_level(logging.WARNING, "avfusion"):
        found = proposals_from_list(write(tmp_path, odd), {"clip_c": 5.0, "clip_b": 60.0, "clip_a": 90.0})
    assert "1 of 3 proposals are empty, reversed or outside" in caplog.text
    assert "the proposal lists have nothing for 1 of 3 videos (clip_c)" in caplog.text
    write_proposals(tmp_path / "proposals.h5", found, "list.txt")
    again = read_proposals(tmp_path / "proposals.h5")
    np.testing.assert_allclose(again["clip_a"], [[65.3, 90.0]])
    np.testing.assert_allclose(again["clip_b"], [[2.0, 4.0]])


def test_lists_of_training_and_test_videos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = tmp_path / "train.txt", tmp_path / "test.txt"
    first.write_text("\n".join(LINES[:9]))
    second.write_text("\n".join(LINES[9:]))
    durations = {"clip_a": 90.0, "clip_b": None}
    with caplog.at_level(logging.WARNING, "avfusion"):
        assert list(proposals_from_list([first, second], durations)) == ["clip_a", "clip_b"]
    assert not caplog.text
    with pytest.raises(InputError, match="clip_a: stands in another of the lists as well"):
        proposals_from_list([first, first], durations)


def test_our_proposals_as_a_list(tmp_path: Path) -> None:
    videos = {
        "a": VideoAnnotation("train", 10.0, (Instance(4.0, 6.0, "run"), Instance(1.0, 2.0, "jump"))),
        "b": VideoAnnotation("train", None),
    }
    annotations = Annotations(videos, ("jump", "run"), "annotations.json")
    proposals = {"a": np.array([[4.0, 6.4], [8.0, 9.0]])}
    path = tmp_path / "list.txt"
    proposals_to_list(path, proposals, annotations, {"a": 25.0})
    assert path.read_text().splitlines()[4:] == [
        *("2", "2 100 150", "1 25 50", "2", "2 0.8333 0.8333 100 160", "0 0.0000 0.0000 200 225"),
    ]
    np.testing.assert_allclose(proposals_from_list(path, {"a": 10.0})["a"], proposals["a"])
    with pytest.raises(InputError, match=r"annotations\.json: a: the frame rate of this video is not known"):
        proposals_to_list(path, proposals, annotations, {})
    with pytest.raises(InputError, match=r"annotations\.json: b: says nothing of this video"):
        proposals_to_list(path, {"b": proposals["a"]}, annotations, {"b": 25.0})
