"""The videos of a shard out of archives: which, whence, and what stands in the way."""

from dataclasses import replace
from pathlib import Path

import pytest
from web.zips import encrypted_zip, plain_zip

from avfusion.data.video_archives import NOT_IN_ARCHIVES, ArchiveOptions, fetch_from_archives
from avfusion.errors import InputError


@pytest.fixture
def options(tmp_path: Path) -> ArchiveOptions:
    (tmp_path / "val.zip").write_bytes(plain_zip({"val/": b"", "val/a.mp4": b"A", "val/b.MP4": b"B"}))
    (tmp_path / "test.zip").write_bytes(encrypted_zip({"test/c.mp4": b"C", "test/d.mp4": b"D"}, b"secret"))
    places = (str(tmp_path / "val.zip"), str(tmp_path / "test.zip"))
    return ArchiveOptions(places, password="secret", terms="https://host/terms", accept_terms=True)


def test_videos_come_from_whichever_archive_has_them(options: ArchiveOptions, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    files, absent = fetch_from_archives(["a", "c", "lost", "b"], options, folder)
    assert {video: path.read_bytes() for video, path in files.items()} == {"a": b"A", "c": b"C", "b": b"B"}
    assert absent == {"lost": NOT_IN_ARCHIVES}
    assert sorted(path.name for path in folder.iterdir()) == ["a.mp4", "b.MP4", "c.mp4"]


def test_terms_come_first(options: ArchiveOptions, tmp_path: Path) -> None:
    refused = replace(options, accept_terms=False, archives=("nowhere.zip",))
    with pytest.raises(InputError) as caught:
        fetch_from_archives(["a"], refused, tmp_path, "config/datasets/mine.yaml")
    message = (
        "config/datasets/mine.yaml: media.accept_terms: read the terms at https://host/terms; if you accept"
    )
    assert str(caught.value).startswith(message)
    fetch_from_archives(["a"], replace(options, accept_terms=False, terms=""), tmp_path / "videos")


def test_a_video_in_two_archives(options: ArchiveOptions, tmp_path: Path) -> None:
    (tmp_path / "more.zip").write_bytes(plain_zip({"a.mp4": b"another"}))
    twice = replace(options, archives=(*options.archives, str(tmp_path / "more.zip")))
    with pytest.raises(InputError, match=r"more\.zip: a: is in .*val\.zip as well"):
        fetch_from_archives(["a"], twice, tmp_path / "videos")


def test_there_must_be_an_archive() -> None:
    with pytest.raises(ValueError, match="archives: must name at least one"):
        ArchiveOptions(())
