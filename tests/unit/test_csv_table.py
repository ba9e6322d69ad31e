"""A table of one's own: what it may look like, and everything that may be wrong with it, all told at once."""

from pathlib import Path

import pytest

from avfusion.data.adapters.csv_table import seconds
from avfusion.data.annotations import Instance, examine_annotations, read_annotations
from avfusion.errors import InputError


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(path: Path) -> list[str]:
    found = examine_annotations([path], subset_needed=False)[1]
    return [str(problem).removeprefix(f"{path}: ") for problem in found]


@pytest.mark.parametrize(
    "text",
    [
        "video,label,start,end\nclip,Jump,75.5,3605\n",
        "Video; Label; Start; End\r\nclip.mp4;Jump;1:15.5;1:00:05\r\n",
        "end\tstart\tclass\tfilename\n01:00:05.000\t00:01:15.5\tJump\tsub/clip.MP4\n",
        '\ufeff"video","label","start","end"\n"clip","Jump","75.5","3605"\n\n',
        "video,label,start,end,note\nclip, Jump ,75.5,3605,hello\n",
    ],
)
def test_a_table_may_be_written_in_many_ways(tmp_path: Path, text: str) -> None:
    annotations = read_annotations(write(tmp_path, text))
    assert annotations.videos["clip"].instances == (Instance(75.5, 3605.0, "Jump"),)


def test_subsets_durations_and_videos_in_which_nothing_happens(tmp_path: Path) -> None:
    text = "video,label,start,end,split,duration\na,Run,1,2,train,60\na,Run,3,4,train,1:00\nb,,,,test,\n"
    annotations = read_annotations(write(tmp_path, text))
    assert annotations.subsets == {"train": 1, "test": 1}
    assert annotations.videos["a"].duration == 60.0
    assert annotations.videos["b"].instances == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [("12.5", 12.5), ("0:12.5", 12.5), ("59:59", 3599.0), ("1:00:00", 3600.0), ("00:00:00.040", 0.04)]
    + [(bad, None) for bad in ("", "1,5", "1:60", "60:00:00:00", "1:99:00", "soon", "nan", "-1:00")],
)
def test_times(text: str, value: float | None) -> None:
    assert seconds(text) == value


BAD = """video,label,start,end,subset
a,Run,1,2,train
a,Run,1,two,train
b,Run,5,4,train
c,,1,2,test
a,Run,-3,2,train
d,Run,1,2
a,Run,3,4,test
,Run,1,2,test
e,Run,,,test
"""


def test_everything_that_is_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    assert problems(write(tmp_path, BAD)) == [
        "line 3, column end: 'two' is no time; write seconds (75.5) or h:mm:ss (0:01:15.5)",
        "line 4: the segment ends at 4 s, before it starts at 5 s",
        "line 5, column label: is empty",
        "line 6: the segment starts at -3 s, before the video does",
        "line 7: 4 cells, but the header has 5",
        "line 8: the video 'a' is in subset 'test' here, and in 'train' above",
        "line 9: the id of the video is empty",
        "line 10, column start: '' is no time; write seconds (75.5) or h:mm:ss (0:01:15.5)",
        "line 10, column end: '' is no time; write seconds (75.5) or h:mm:ss (0:01:15.5)",
    ]


def test_lines_in_another_encoding_are_told_and_the_rest_is_checked_all_the_same(tmp_path: Path) -> None:
    text = "video,label,start,end\na,Café,1,2\nb,Run,1,2\nc,Tür,3,2\n".encode("latin-1")
    assert problems(write(tmp_path, text)) == [
        "line 2: is not UTF-8 text (byte 0xe9): save the file as UTF-8",
        "line 4: is not UTF-8 text (byte 0xfc): save the file as UTF-8",
        "line 4: the segment ends at 2 s, before it starts at 3 s",
    ]
    with pytest.raises(InputError, match="line 1: is UTF-16 text: save it as UTF-8"):
        examine_annotations([write(tmp_path, "video,label,start,end\n".encode("utf-16"))])


def test_what_is_no_such_table(tmp_path: Path) -> None:
    for text, words in (
        ("", "no column video, label"),
        ("video,label\na,b\n", "no column start, end"),
    ):
        with pytest.raises(InputError) as caught:
            examine_annotations([write(tmp_path, text)])
        assert words in str(caught.value) and "line 1" in str(caught.value)


def test_labels_that_differ_in_case_or_blanks(tmp_path: Path) -> None:
    rows = ("a,High Jump,1,2", "b,high jump,1,2", "a,High Jump,3,4", "c,HighJump,1,2", "c,Run,1,2")
    text = "\n".join(["video,label,start,end", *rows])
    path = write(tmp_path, text)
    assert problems(path) == [
        "labels: are these one class? 'High Jump' (2 times, first on line 2), 'high jump' (1 times, first on"
        " line 3), 'HighJump' (1 times, first on line 5): write it in one way"
    ]
    assert read_annotations(path).labels == ("High Jump", "HighJump", "Run", "high jump")
