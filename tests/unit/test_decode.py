"""Frames by time stamps: which frame stands where on the grid."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from media_files import HEIGHT, WIDTH, number, skip, tone, turn, write_video

from avfusion.errors import MediaError
from avfusion.media.container import read_packets
from avfusion.media.decode import TimeGrid, VideoReader, centre_crop, read_frames, scaled_size
from avfusion.media.probe import probe


def _numbers(path: Path, fps: float | None = None) -> tuple[list[float], list[int]]:
    times, frames = [], []
    for time, image in read_frames(path, fps):
        times.append(time)
        frames.append(number(image))
    return times, frames


@pytest.mark.parametrize(
    ("suffix", "codec", "b_frames", "rate"),
    [
        (".mp4", "libx264", 2, Fraction(25)),
        (".mp4", "libx264", 0, Fraction(30000, 1001)),
        (".mkv", "libx264", 2, Fraction(30000, 1001)),
        (".ts", "libx264", 2, Fraction(25)),
        (".avi", "mpeg4", 2, Fraction(25)),
        (".webm", "libvpx", 0, Fraction(24000, 1001)),
    ],
)
def test_constant_rate_gives_every_frame_once(
    tmp_path: Path, suffix: str, codec: str, b_frames: int, rate: Fraction
) -> None:
    base = 1 / rate if suffix == ".avi" else Fraction(1, 90000)
    path = write_video(
        tmp_path / f"a{suffix}",
        [i / rate for i in range(100)],
        rate,
        codec,
        b_frames=b_frames,
        time_base=base,
    )
    times, frames = _numbers(path)
    assert frames == [i % 20 for i in range(100)]
    assert times == pytest.approx(np.arange(100) / float(rate), abs=1e-3)


def test_another_rate_takes_the_frame_shown_then(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(50) / 25)
    times, frames = _numbers(path, fps=10)
    assert times == pytest.approx(np.arange(20) / 10)
    assert frames == [int(np.floor(i * 2.5 + 1e-9)) % 20 for i in range(20)]
    _, doubled = _numbers(path, fps=50)
    assert doubled == [i // 2 % 20 for i in range(100)]


def test_variable_rate_goes_by_time_stamps(tmp_path: Path) -> None:
    shown = [0.0, 0.1, 0.2, 0.7, 0.8, 1.5]  # frames 2 and 4 stand for a long time
    path = write_video(tmp_path / "a.mkv", shown, rate=10, b_frames=0)
    times, frames = _numbers(path, fps=10)
    assert frames[:16] == [0, 1, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4, 4, 5]
    assert times[:16] == pytest.approx(np.arange(16) / 10)


def test_variable_rate_late_start_and_b_frames_together(tmp_path: Path) -> None:
    """Pictures that begin late, are reordered, and stand for different times, beside sound from zero on."""
    shown = 0.5 + np.cumsum([0, *([0.04, 0.08, 0.12] * 8)])
    path = write_video(tmp_path / "a.mp4", shown, rate=25, b_frames=3, sound=tone(3.0))
    times, frames = _numbers(path, fps=25)
    assert times[0] == pytest.approx(0.5, abs=1e-3)
    expected = [int(np.searchsorted(shown, time + 2e-3, side="right")) - 1 for time in times]
    assert frames == [number % 20 for number in expected]


def test_b_frames_come_in_the_order_shown(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(19) / 25, b_frames=3)
    assert _numbers(path)[1] == list(range(19))


def test_time_zero_is_the_start_of_the_container(tmp_path: Path) -> None:
    late = write_video(tmp_path / "late.mp4", 0.4 + np.arange(10) / 25, sound=tone(1.0))
    assert next(read_frames(late))[0] == pytest.approx(0.4, abs=1e-3)
    both = write_video(tmp_path / "both.ts", 7 + np.arange(10) / 25)
    assert next(read_frames(both))[0] == pytest.approx(0.0, abs=1e-5)


def test_frames_that_an_edit_list_skips_are_skipped(tmp_path: Path) -> None:
    path = skip(write_video(tmp_path / "a.mp4", np.arange(50) / 25, b_frames=2), seconds=0.4)
    times, frames = _numbers(path)
    assert frames == [i % 20 for i in range(10, 50)]
    assert times == pytest.approx(np.arange(40) / 25, abs=1e-3)
    info = probe(path)
    assert (info.frames, info.start) == (40, pytest.approx(0, abs=1e-3))
    assert info.duration == pytest.approx(1.6, abs=0.01)


def test_a_track_that_turns_up_late_does_not_end_the_file() -> None:
    class Container:
        """PyAV raises IndexError for a packet of a track that was not there when the file was opened."""

        def __init__(self) -> None:
            self.packets = iter([1, 2, IndexError(), 3, av.error.InvalidDataError(0, "", ""), 4])

        def demux(self, *tracks: object) -> Iterator[int]:
            for packet in self.packets:
                if isinstance(packet, Exception):
                    raise packet
                yield packet

    assert list(read_packets(Container())) == [1, 2, 3]  # type: ignore[arg-type]


def test_grid_and_probe_agree_on_the_extent(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 0.3 + np.arange(33) / 25, sound=tone(0.5))
    info = probe(path)
    with VideoReader(path) as reader:
        shown = list(reader)
        assert reader.rate == info.fps
    assert (shown[0].start, shown[-1].end) == pytest.approx((info.start, info.end))


def test_turned_video_is_turned(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    _write_bright_left(path)
    upright = next(read_frames(path))[1]
    assert upright.shape == (HEIGHT, WIDTH, 3)
    for degrees, expected in (
        (90, np.rot90(upright, -1)),
        (180, np.rot90(upright, 2)),
        (270, np.rot90(upright)),
    ):
        _write_bright_left(path)
        turned = next(read_frames(turn(path, degrees)))[1]
        assert np.array_equal(turned, expected)
    assert upright[:, : WIDTH // 3].mean() > 150 > 100 > upright[:, -WIDTH // 3 :].mean()


def test_scaled_to_the_shorter_side_and_cropped_in_the_middle(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(3) / 25)
    shapes = [
        next(read_frames(path, short_side=32))[1].shape,
        next(read_frames(path, short_side=40, size=24))[1].shape,
        next(read_frames(path, size=128))[1].shape,
    ]
    assert shapes == [(32, 48, 3), (24, 24, 3), (128, 128, 3)]
    with pytest.raises(ValueError, match="does not fit"):
        next(read_frames(path, short_side=20, size=24))


def test_published_sizes() -> None:
    assert scaled_size(340, 256, 256) == (340, 256)
    assert scaled_size(1920, 1080, 256) == (455, 256)
    assert scaled_size(240, 320, 256) == (256, 341)
    image = np.arange(5 * 7).reshape(5, 7).astype(np.uint8)
    assert np.array_equal(centre_crop(image, 3), image[1:4, 2:5])


def test_threads_do_not_change_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(60) / 25)
    for (time, image), (other_time, other) in zip(
        read_frames(path), read_frames(path, threads=2), strict=True
    ):
        assert time == other_time
        assert np.array_equal(image, other)


def test_damaged_packets_are_skipped(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", np.arange(100) / 25, b_frames=0)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(bytes(content))
    times, _ = _numbers(path)
    assert 10 < len(times) <= 100
    assert (np.diff(times) > 0).all()


def test_no_frame_that_can_be_decoded(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mkv", np.arange(10) / 25, codec="mpeg4", b_frames=0, time_base=Fraction(1, 25)
    )
    content = path.read_bytes()
    begin = content.index(b"\x00\x00\x01\xb6")  # the first picture
    path.write_bytes(content[:begin] + b"\xff" * (len(content) - begin))
    with pytest.raises(MediaError):
        list(read_frames(path))


def test_grid_hands_out_every_time_once() -> None:
    grid = TimeGrid(10, start=0.5)
    assert list(grid.until(0.72)) == pytest.approx([0.5, 0.6, 0.7])
    assert list(grid.until(0.75)) == []
    assert list(grid.until(0.801)) == []  # the next frame's stamp is 0.8, rounded
    assert list(grid.until(0.95)) == pytest.approx([0.8, 0.9])
    assert (grid.count, grid.total) == (5, None)


def test_grid_with_a_known_end_has_all_its_times_and_no_more() -> None:
    grid = TimeGrid(10, start=0.0, end=0.6004)
    assert grid.total == 6
    assert list(grid.until(0.25)) == pytest.approx([0.0, 0.1, 0.2])
    assert list(grid.rest()) == pytest.approx([0.3, 0.4, 0.5])
    assert list(grid.until(9.0)) == []
    assert TimeGrid(10, start=1.0, end=1.001).total == 1


def _write_bright_left(path: Path) -> None:
    import av

    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        image[:, : WIDTH // 2] = 220
        image[: HEIGHT // 4] = 90
        for _ in range(3):
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode(None))
