"""Sound from time zero on, its resampling in blocks, and windows of it."""

import itertools
import wave
from pathlib import Path

import numpy as np
import pytest
from media_files import RATE, tone, write_video

from avfusion.errors import MediaError
from avfusion.media.audio import Waveform, cut_windows, read_audio, resample, resample_blocks


def _write_wav(path: Path, pcm: np.ndarray, rate: int) -> Path:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(pcm.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.astype("<i2").tobytes())
    return path


def test_mono_is_the_mean_of_the_channels_over_32768(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, (5000, 2))
    sound = read_audio(_write_wav(tmp_path / "a.wav", pcm, 8000))
    assert (sound.rate, sound.start, sound.samples.dtype) == (8000, 0.0, np.float32)
    assert np.array_equal(sound.samples, (pcm.mean(axis=1) / 32768).astype(np.float32))


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s32le", "pcm_f32le", "pcm_f64le", "flac"])
def test_every_sample_format_means_the_same(tmp_path: Path, codec: str) -> None:
    import av

    suffix = ".mka"
    sound = tone(0.5)
    with av.open(str(tmp_path / f"a{suffix}"), "w") as out:
        track = out.add_stream(codec, rate=RATE, layout="mono")
        convert = av.AudioResampler(format=track.codec_context.format, layout="mono", rate=RATE)
        frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for part in (*convert.resample(frame), *convert.resample(None)):
            out.mux(track.encode(part))
        out.mux(track.encode(None))
    read = read_audio(tmp_path / f"a{suffix}").samples
    assert len(read) == len(sound)
    assert np.abs(read - sound).max() < (1 / 100 if codec == "pcm_u8" else 1 / 30000)


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_sample_0_is_time_zero(tmp_path: Path, start: float) -> None:
    """The priming samples of AAC are gone, and a track that starts late begins with silence."""
    click = np.zeros(RATE)
    click[RATE // 4 : RATE // 4 + 200] = 0.8 * np.sin(2 * np.pi * np.arange(200) / 40)
    path = write_video(tmp_path / "a.mp4", np.arange(50) / 25, sound=click, sound_start=start)
    samples = read_audio(path).samples
    reference = np.convolve(np.abs(click), np.ones(200))[:RATE]
    found = np.convolve(np.abs(samples), np.ones(200))
    assert np.argmax(found) - np.argmax(reference) == pytest.approx(
        start * RATE, abs=60
    )  # MP4 rounds starts to 1 ms
    assert np.abs(samples[: int((start + 0.2) * RATE)]).max() < 0.02


def test_pictures_that_start_late_leave_the_sound_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 0.7 + np.arange(25) / 25, sound=tone(1.0))
    assert len(read_audio(path).samples) == pytest.approx(RATE, abs=1100)


def test_gap_in_the_stamps_is_silence(tmp_path: Path) -> None:
    from fractions import Fraction

    import av

    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        track = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        for first in (0, 4000, 12000):
            frame = av.AudioFrame.from_ndarray(
                np.full((1, 4000), 1000, np.int16), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = 8000, first, Fraction(1, 8000)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    samples = read_audio(tmp_path / "a.mkv").samples
    expected = np.full(16000, 1000 / 32768, np.float32)
    expected[8000:12000] = 0
    assert np.array_equal(samples, expected)


def test_no_sound_has_a_reason(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(5) / 25)
    with pytest.raises(MediaError, match=r"^no sound track$"):
        read_audio(path)


def test_rate_of_a_damaged_header(tmp_path: Path) -> None:
    path = _write_wav(tmp_path / "a.wav", np.zeros((100, 1)), 900)
    with pytest.raises(MediaError, match="declares 900 samples per second"):
        read_audio(path)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 11025])
def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    import resampy

    monkeypatch.setattr("avfusion.media.audio.BLOCK_SECONDS", 0.3)
    sound = np.random.default_rng(1).standard_normal(int(1.7 * rate) + 13).astype(np.float32) * 0.1
    whole = sound if rate == 16000 else resampy.resample(sound, rate, 16000, filter="kaiser_best")
    for size in (1000, 1024, 10**6):
        pieces = (sound[i : i + size] for i in range(0, len(sound), size))
        blocks = np.concatenate(list(resample_blocks(pieces, rate, 16000)))
        assert len(blocks) == len(sound) * 16000 // rate == len(whole)
        assert np.abs(blocks - whole).max() < 2e-6


def test_resampling_nothing_gives_nothing() -> None:
    empty = resample(Waveform(np.zeros(0, np.float32), 44100))
    assert (len(empty.samples), empty.rate) == (0, 16000)
    assert len(resample(Waveform(np.zeros(2, np.float32), 44100)).samples) == 0


@pytest.mark.parametrize("size", [1, 7, 100])
def test_windows_out_of_blocks(size: int) -> None:
    sound = np.arange(1, 51, dtype=np.float32)
    blocks = [sound[i : i + size] for i in range(0, 50, size)]
    given = list(cut_windows(blocks, [-3, 4, 30, 45, 80], 10, whole=False))
    padded = np.concatenate([np.zeros(3), sound, np.zeros(100)])
    assert [list(window) for window in given] == [list(padded[s + 3 : s + 13]) for s in (-3, 4, 30, 45, 80)]
    own = list(cut_windows(blocks, itertools.count(0, 12), 15, whole=True))
    assert [window[0] for window in own] == [1, 13, 25]


def test_short_sound_gives_one_window_filled_up() -> None:
    (window,) = cut_windows([np.ones(3, np.float32)], itertools.count(0, 5), 6, whole=True)
    assert list(window) == [1, 1, 1, 0, 0, 0]


def test_frames_that_announce_channels_without_memory_are_left_out() -> None:
    """Damaged AAC does: reading such a frame would end the process."""
    from types import SimpleNamespace

    from avfusion.media.audio import _is_sound

    def frame(channels: int, planes: int, planar: bool = True) -> SimpleNamespace:
        layout, kind = SimpleNamespace(nb_channels=channels), SimpleNamespace(is_planar=planar)
        return SimpleNamespace(layout=layout, format=kind, planes=[None] * planes)

    assert _is_sound(frame(2, 2)) and _is_sound(frame(6, 1, planar=False))
    assert not any(map(_is_sound, (frame(60, 64), frame(2, 1), frame(0, 0), frame(60, 60))))


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_mixing_by_definition(kind: str, channels: int) -> None:
    """Of any values, infinite ones and none among them, what 16-bit arithmetic in float64 gives."""
    from avfusion.media.audio import _mono

    random, kind = np.random.default_rng(3), np.dtype(kind)
    if kind.kind == "f":
        values = random.standard_normal((997, channels)).astype(kind)
        values[::50, 0], values[1::50, 0], values[2::50, 0] = np.nan, np.inf, -3e38
        with np.errstate(over="ignore"):
            pcm = np.nan_to_num(values.astype(np.float64)) * 32768
    else:
        limits = np.iinfo(kind)
        values = random.integers(limits.min, limits.max, (997, channels), dtype=kind, endpoint=True)
        wide = values.astype(np.float64)
        pcm = (wide - 128) * 256 if kind.kind == "u" else wide / 2.0 ** (8 * kind.itemsize - 16)
    pcm = np.clip(np.rint(pcm), -32768, 32767)
    expected = (pcm.mean(axis=1) / 32768).astype(np.float32)
    found = _mono(values)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
