"""The journal of a shard: what survives a kill, a full disk, and a change of options."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.data.journal import Journal
from avfusion.errors import AvfusionError

KEY = {"weights": "sha256:1", "geometry": {"window": 64}}
AXIS = TimeAxis(0.5, 0.25, 1.0)


def features(seed: int = 0, count: int = 5) -> VideoFeatures:
    return VideoFeatures(np.random.RandomState(seed).rand(count, 3).astype(np.float32), AXIS)


def filled(folder: Path, *videos: str) -> Path:
    with Journal(folder / "0.h5", KEY) as journal:
        for index, video in enumerate(videos):
            journal.add(video, "source", {"rgb": features(index), "audio": "no sound track"})
    return journal.path


def test_finished_videos_come_back_as_they_were(tmp_path: Path) -> None:
    path = filled(tmp_path, "a", "b")
    assert path == tmp_path / ".0.h5.partial"
    with Journal(tmp_path / "0.h5", KEY) as journal:
        assert journal.finished("a", "source") and journal.finished("b", "source")
        assert not journal.finished("c", "source")
        assert not journal.finished("a", "another file of that name")
        found = journal.results("b")
        assert found["audio"] == "no sound track"
        rgb = found["rgb"]
        assert isinstance(rgb, VideoFeatures)
        assert rgb.axis == AXIS
        np.testing.assert_array_equal(rgb.values, features(1).values)
        journal.discard()
    assert list(tmp_path.iterdir()) == []


def test_another_way_of_making_them_starts_over(tmp_path: Path) -> None:
    filled(tmp_path, "a")
    with Journal(tmp_path / "0.h5", KEY | {"weights": "sha256:2"}) as journal:
        assert not journal.finished("a", "source")
    with Journal(tmp_path / "0.h5", KEY) as journal:
        assert not journal.finished("a", "source")


def test_a_video_that_changed_is_done_again(tmp_path: Path) -> None:
    filled(tmp_path, "a")
    with Journal(tmp_path / "0.h5", KEY) as journal:
        journal.add("a", "new source", {"rgb": features(7)})
    with Journal(tmp_path / "0.h5", KEY) as journal:
        assert journal.finished("a", "new source") and not journal.finished("a", "source")
        assert list(journal.results("a")) == ["rgb"]


def test_cut_off_or_damaged_anywhere_it_keeps_what_is_whole(tmp_path: Path) -> None:
    """As SIGKILL or a power cut may leave it: cut at every place, and a byte turned over at many."""
    content = filled(tmp_path, "a", "b").read_bytes()
    with Journal(tmp_path / "0.h5", KEY) as journal:
        ends = [journal._done["a"][1]["rgb"].offset, len(content)]
    first_end = content.index(b"finished")
    first_end = content.index(b"\n", first_end) + 1
    assert ends[0] < first_end
    for size in range(0, len(content), 7):
        _rewrite(tmp_path, content[:size])
        with Journal(tmp_path / "0.h5", KEY) as journal:
            assert [journal.finished(v, "source") for v in "ab"] == [size >= first_end, False]
            journal.add("c", "source", {"rgb": features(3)})
        with Journal(tmp_path / "0.h5", KEY) as journal:
            assert journal.finished("c", "source")
    for place in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[place] ^= 0x40
        _rewrite(tmp_path, bytes(damaged))
        with Journal(tmp_path / "0.h5", KEY) as journal:
            assert [journal.finished(v, "source") for v in "ab"] == [place >= first_end, False]


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "0.h5", KEY), pytest.raises(AvfusionError, match="another process is extracting"):
        Journal(tmp_path / "0.h5", KEY).__enter__()
    with Journal(tmp_path / "0.h5", KEY):
        pass


def test_a_full_disk_is_told_and_what_was_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    filled(tmp_path, "a")
    with Journal(tmp_path / "0.h5", KEY) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(AvfusionError, match=r"\.0\.h5\.partial: the disk is full .* are kept"):
                journal.add("b", "source", {"rgb": features()})
        assert journal.finished("a", "source") and not journal.finished("b", "source")
    with Journal(tmp_path / "0.h5", KEY) as journal:
        assert journal.finished("a", "source") and not journal.finished("b", "source")


def _rewrite(folder: Path, content: bytes) -> None:
    (folder / ".0.h5.partial").write_bytes(content)
