"""Which file holds which video, and what becomes of videos that cannot be used."""

from pathlib import Path

import pytest

from avfusion.data.annotations import Annotations, VideoAnnotation
from avfusion.errors import InputError
from avfusion.media.inspect import NO_FILE, inspect_videos
from avfusion.media.listing import find_files, list_videos, read_listing, write_listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    videos = tmp_path / "videos"
    (videos / "more").mkdir(parents=True)
    for name in ("a.mp4", "more/b.MKV", "v_c.webm", "notes.txt", ".a.mp4.tmp.mp4"):
        (videos / name).write_bytes(b"no video")
    return videos


def annotations() -> Annotations:
    subsets = {"a": "test", "b": "train", "c": "test", "d": "test", "e": "unused"}
    return Annotations({name: VideoAnnotation(subset, None) for name, subset in subsets.items()}, ())


def test_files_are_found_by_the_id_of_their_video(folder: Path) -> None:
    assert {name: path.name for name, path in find_files(folder).items()} == {
        "a": "a.mp4",
        "b": "b.MKV",
        "v_c": "v_c.webm",
    }


def test_shards_share_the_videos_of_the_subsets_between_them(folder: Path) -> None:
    files = find_files(folder)
    shards = [list_videos(annotations(), ("train", "test"), files, shard, 2) for shard in range(2)]
    assert [[video.id for video in shard] for shard in shards] == [["b", "c"], ["a", "d"]]
    assert shards[0][1].path.endswith("v_c.webm"), "ActivityNet's files are named so"
    assert shards[1][1].path == ""


def test_a_listing_reads_back_and_a_replaced_file_changes_it(folder: Path, tmp_path: Path) -> None:
    listed = list_videos(annotations(), ("test",), find_files(folder))
    write_listing(tmp_path / "list.tsv", listed)
    assert read_listing(tmp_path / "list.tsv") == listed
    (folder / "a.mp4").write_bytes(b"another video")
    assert list_videos(annotations(), ("test",), find_files(folder)) != listed


def test_a_video_that_cannot_be_used_is_a_row_with_a_reason(folder: Path) -> None:
    rows = {row.id: row for row in inspect_videos(list_videos(annotations(), ("test",), find_files(folder)))}
    assert rows["d"].status == NO_FILE
    assert rows["a"].status == "not a video file"
    assert len(rows["a"].sha256) == 64
    (folder / "a.mp4").unlink()
    assert (
        inspect_videos([list_videos(annotations(), ("test",), {"a": folder / "b"}, 2, 3)[0]])[0].status
        == NO_FILE
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no such folder; put the videos there"),
        ("empty", "holds no video"),
        ("twice", "a: a.avi and a.mp4 both claim to be it"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, name: str, message: str) -> None:
    for path in ("empty/notes.txt", "twice/a.avi", "twice/a.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(InputError, match=message):
        find_files(tmp_path / name)


def test_a_table_that_is_no_listing(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("id\tfile\n")
    with pytest.raises(InputError, match="line 1: must have the columns id, subset, path, bytes, modified"):
        read_listing(tmp_path / "list.tsv")


def test_a_video_that_was_not_to_be_had_keeps_its_reason(tmp_path: Path) -> None:
    annotations = Annotations({"a": VideoAnnotation("test", None), "b": VideoAnnotation("test", None)}, ())
    videos = list_videos(annotations, ["test"], {}, reasons={"b": "Private video"})
    write_listing(tmp_path / "listing.tsv", videos)
    assert read_listing(tmp_path / "listing.tsv") == videos
    assert [row.status for row in inspect_videos(videos)] == [NO_FILE, "Private video"]


def test_a_folder_that_may_be_empty(tmp_path: Path) -> None:
    assert find_files(tmp_path / "nowhere", may_be_empty=True) == {}
    assert find_files(tmp_path, may_be_empty=True) == {}
