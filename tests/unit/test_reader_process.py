"""Videos read by processes of their own: the same items, and ends that leave nothing behind."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from media_files import tone, write_video

from avfusion.errors import AvfusionError
from avfusion.media import reader_process
from avfusion.media.clips import VisualSource
from avfusion.media.reader_process import ReaderProcesses
from avfusion.media.reading import End, Job, Piece, SoundSource, read_video
from avfusion.media.snippets import AudioGeometry, SnippetGeometry

FRAMES = SnippetGeometry(window=8, stride=4, size=24, short_side=32)


@pytest.fixture
def processes() -> Iterator[ReaderProcesses]:
    pool = ReaderProcesses()
    yield pool
    pool.close()


def job(path: Path) -> Job:
    visual = {
        "rgb": VisualSource(FRAMES, run=3),
        "flow": VisualSource(FRAMES, "tvl1", run=2),
        "grey": VisualSource(FRAMES, run=2, grey=True),
    }
    return Job(path, visual, {"audio": SoundSource(AudioGeometry(follow=FRAMES), 4)})


def items(found: Iterator[Piece | End]) -> tuple[list[tuple[str, int, np.ndarray]], End]:
    pieces = []
    for item in found:
        if isinstance(item, End):
            return pieces, item
        pieces.append((item.stream, item.run.windows, item.run.stacked()))
    raise AssertionError("no end")


def test_a_process_gives_what_a_thread_does(tmp_path: Path, processes: ReaderProcesses) -> None:
    paths = [
        write_video(tmp_path / f"{n}.mp4", np.arange(n) / 25, sound=tone(1.0) if n > 20 else None)
        for n in (19, 30, 5)
    ]
    for path in [*paths, tmp_path / "none.mp4", *paths]:
        expected, expected_end = items(read_video(job(path)))
        found, end = items(processes.read(job(path)))
        assert [piece[:2] for piece in found] == [piece[:2] for piece in expected]
        for (_, _, values), (_, _, others) in zip(found, expected, strict=True):
            assert values.dtype == others.dtype
            np.testing.assert_array_equal(values, others)
        assert end.axes == expected_end.axes
        assert set(end.wall) == set(expected_end.wall)
    assert len(processes._idle) == 1  # used again
    assert end.wall["pictures"] > 0 and end.wall["flow"] > 0


def test_times_are_of_what_was_done(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(30) / 25, sound=tone(1.0))
    _, end = items(read_video(job(path)))
    assert list(end.wall) == list(end.cpu)
    assert set(end.wall) == {"pictures", "flow", "sound", "handing over"}


def test_what_a_process_logs_is_logged_here(
    tmp_path: Path, processes: ReaderProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "a.mkv", np.arange(100) / 25, b_frames=0)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING, "avfusion"):
        items(read_video(job(path)))
        expected = caplog.messages[:]
        caplog.clear()
        items(processes.read(job(path)))
    assert caplog.messages == expected


def test_an_error_is_raised_here(tmp_path: Path, processes: ReaderProcesses) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(9) / 25)
    broken = Job(path, {"rgb": VisualSource(FRAMES, run="x")}, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        list(processes.read(broken))
    assert not processes._idle and not processes._busy
    assert items(processes.read(job(path)))[0]


def test_a_process_that_dies_is_told(tmp_path: Path, processes: ReaderProcesses) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(200) / 25)
    found = processes.read(job(path))
    with pytest.raises(AvfusionError, match=r"a\.mp4: the process that read it ended with status -9"):
        for item in found:
            assert isinstance(item, Piece)
            item.run.stacked()
            (process,) = processes._busy
            os.kill(process.pid, signal.SIGKILL)


def test_leaving_early_ends_the_process(tmp_path: Path, processes: ReaderProcesses) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(200) / 25)
    with closing(processes.read(job(path))) as found:  # type: ignore[type-var]
        next(found)
        (process,) = processes._busy
    assert process.poll() is not None
    assert not processes._idle


def test_it_starts_without_torch() -> None:
    code = f"import sys, {reader_process.__name__}; sys.exit('torch' in sys.modules)"
    import subprocess
    import sys

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
