"""`probe` on good, odd and broken files."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_files import HEIGHT, WIDTH, tone, turn, write_video

from avfusion.errors import MediaError
from avfusion.media.probe import probe


@pytest.mark.parametrize(
    ("suffix", "codec", "b_frames"),
    [
        (".mp4", "libx264", 2),
        (".mkv", "libx264", 0),
        (".ts", "libx264", 2),
        (".avi", "mpeg4", 2),
        (".webm", "libvpx", 0),
    ],
)
def test_frames_rate_and_duration_in_every_container(
    tmp_path: Path, suffix: str, codec: str, b_frames: int
) -> None:
    base = Fraction(1, 25) if suffix == ".avi" else Fraction(1, 90000)
    path = write_video(
        tmp_path / f"a{suffix}", np.arange(50) / 25, codec=codec, b_frames=b_frames, time_base=base
    )
    info = probe(path)
    assert (info.frames, info.width, info.height) == (50, WIDTH, HEIGHT)
    assert info.fps == pytest.approx(25)
    assert info.duration == pytest.approx(2.0, abs=0.01)
    assert (info.has_audio, info.sample_rate) == (False, 0)


def test_sound_counts_for_the_duration(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(25) / 25, sound=tone(2.0), sound_start=0.5)
    info = probe(path)
    assert (info.has_audio, info.sample_rate) == (True, 44100)
    assert info.duration == pytest.approx(2.5, abs=0.03)
    assert info.end == pytest.approx(1.0, abs=0.01)


def test_a_track_that_starts_late_starts_late(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 0.4 + np.arange(25) / 25, sound=tone(2.0))
    assert probe(path).start == pytest.approx(0.4, abs=0.001)


def test_odd_last_frame_leaves_a_constant_rate_alone(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4", np.arange(300) * 1001 / 30000, rate=Fraction(30000, 1001), size=(32, 32)
    )
    assert probe(path).fps == pytest.approx(30000 / 1001, rel=1e-9)


def test_variable_rate_is_the_average(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.concatenate([np.arange(20) / 20, 1 + np.arange(10) / 5]))
    assert probe(path).fps == pytest.approx(30 / 2.84, rel=0.15)


def test_turned_video_has_the_size_that_is_shown(tmp_path: Path) -> None:
    path = turn(write_video(tmp_path / "a.mp4", np.arange(5) / 25), 90)
    info = probe(path)
    assert (info.width, info.height) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.mp4", b"", "the file is empty"),
        ("a.mp4", b"This is no video.\n" * 50, "not a video file"),
        ("a.txt", b"This is no video.\n" * 50, "not a video"),
        ("a.mp4", b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1/a.ts\n#EXT-X-ENDLIST\n", "not a video"),
        ("a.mp4", b"ffconcat version 1.0\nfile 'b.mp4'\n", "not a video"),
        ("a.mp4", bytes(range(256)) * 16, "not a video file"),
    ],
)
def test_files_that_are_no_video(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError, match=reason):
        probe(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("name", ["a", "a.mp4"])
def test_an_image_is_no_video(tmp_path: Path, suffix: str, name: str) -> None:
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    path = tmp_path / (name if name.endswith("mp4") else name + suffix)
    path.write_bytes(cv2.imencode(suffix, image)[1].tobytes())
    with pytest.raises(MediaError, match=r"^an image, not a video$"):
        probe(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        probe(tmp_path / "nothing.mp4")
    with pytest.raises(MediaError, match="a folder"):
        probe(tmp_path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [], sound=tone(1.0))
    with pytest.raises(MediaError, match="no video track"):
        probe(path)


def test_mp4_without_its_index(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(50) / 25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"truncated.*moov"):
        probe(path)


@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_file_cut_in_the_middle_says_how_much_can_be_read(tmp_path: Path, kept: float) -> None:
    path = _noisy(tmp_path / "a.mp4", seconds=8)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(MediaError, match=r"truncated: \d\.\d of 8\.0 s readable"):
        probe(path)


def test_a_little_missing_at_the_end_is_forgiven(tmp_path: Path) -> None:
    path = _noisy(tmp_path / "a.mp4", seconds=8)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.95)])
    info = probe(path)
    assert 7 <= info.duration < 8
    assert info.frames < 80


def test_stamps_that_jump_far_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", np.array([0, 0.04, 0.08, 5000, 5000.04]), b_frames=0)
    with pytest.raises(MediaError, match=r"time stamps jump from 0\.1 s to 5000\.0 s"):
        probe(path)


def test_a_title_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = _noisy(tmp_path / "a.mp4", seconds=1, title="Stra-e")
    content = path.read_bytes()
    assert content.count(b"Stra-e") == 1
    path.write_bytes(content.replace(b"Stra-e", "Straße".encode("latin-1")))
    assert probe(path).frames == 10


def _noisy(path: Path, seconds: int, title: str = "") -> Path:
    """A video of about constant bytes per second whose index stands at the front."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        out.metadata["title"] = title
        video = out.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        generator = np.random.default_rng(0)
        for _ in range(seconds * 10):
            image = generator.integers(0, 256, (64, 64, 3), np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode(None))
    return path
