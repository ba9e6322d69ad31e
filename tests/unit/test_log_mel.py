"""Log-mel: the definition written out as a loop, and examples in time."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from avfusion.errors import AvfusionError
from avfusion.media import log_mel as module
from avfusion.media.log_mel import (
    examples,
    examples_at,
    log_mel,
    mel_matrix,
    published_examples,
    published_windows,
)

SILENCE = np.float32(math.log(0.01))


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def frame_by_definition(samples: NDArray[np.float32]) -> list[float]:
    """One frame, band by band and bin by bin."""
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in range(400)]
    magnitude = np.abs(np.fft.fft([s * w for s, w in zip(samples.tolist(), window, strict=True)], 512))

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    width = (mel(7500) - mel(125)) / 65
    bands = []
    for band in range(64):
        centre = mel(125) + (band + 1) * width
        weights = [max(0.0, 1 - abs(mel(k * 16000 / 512) - centre) / width) for k in range(1, 257)]
        bands.append(math.log(0.01 + sum(w * m for w, m in zip(weights, magnitude[1:257], strict=True))))
    return bands


def test_a_frame_by_definition() -> None:
    waveform = noise(1000)
    expected = [frame_by_definition(waveform[start : start + 400]) for start in (0, 160, 320, 480)]
    np.testing.assert_allclose(log_mel(waveform), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16000, 98)])
def test_number_of_frames(samples: int, frames: int) -> None:
    assert log_mel(noise(samples)).shape == (frames, 64)


def test_a_tone_lights_its_band() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    centres = 700 * np.expm1(
        np.linspace(1127 * np.log1p(125 / 700), 1127 * np.log1p(7500 / 700), 66)[1:-1] / 1127
    )
    assert (log_mel(tone).argmax(axis=1) == np.abs(centres - 1000).argmin()).all()
    assert (mel_matrix()[0] == 0).all()


def test_long_sound_is_worked_off_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = log_mel(noise(20000))
    monkeypatch.setattr(module, "_BLOCK", 7)
    np.testing.assert_array_equal(log_mel(noise(20000)), whole)


def test_examples_drop_what_fills_none() -> None:
    spectrogram = log_mel(noise(160 * 200 + 400))
    assert len(spectrogram) == 201
    np.testing.assert_array_equal(examples(spectrogram), spectrogram[:192].reshape(2, 96, 64))
    assert examples(spectrogram[:95]).shape == (0, 96, 64)


def test_examples_at_the_centres_of_the_grid_are_those_of_the_grid() -> None:
    waveform = noise(16000 * 3)
    centres = 0.96 * np.arange(3) + 0.975 / 2
    np.testing.assert_array_equal(examples_at(waveform, centres), examples(log_mel(waveform)))


def test_examples_at_any_order_and_in_pieces() -> None:
    waveform = noise(16000 * 3)
    centres = np.array([2.1, 0.3, 1.234, -0.2, 3.3])
    whole = examples_at(waveform, centres)
    for centre, example in zip(centres, whole, strict=True):
        np.testing.assert_allclose(examples_at(waveform, [centre])[0], example, rtol=0, atol=1e-6)


def test_examples_at_follow_the_clock() -> None:
    waveform = np.zeros(16000 * 4, np.float32)
    waveform[32000:32400] = noise(400)  # a click at 2.0 s of the sound
    for start in (0.0, 0.5, -0.25):
        example = examples_at(waveform, [2.0 + start], start)[0]
        loudest = example.sum(axis=1).argmax() * 0.01 + 0.0125 - 0.975 / 2  # seconds from the centre
        assert abs(loudest - 0.0125) <= 0.011
    assert (examples_at(waveform, [2.0 + 0.6])[0] == SILENCE).all()
    assert not (examples_at(waveform, [2.0 + 0.4])[0] == SILENCE).all()


def test_outside_the_sound_is_silence() -> None:
    waveform = noise(16000)
    outside = examples_at(waveform, [-5.0, 10.0])
    assert (outside == SILENCE).all()
    half = examples_at(waveform, [0.0])[0]
    assert (half[:46] == SILENCE).all()
    assert not (half[50:] == SILENCE).any()
    assert examples_at(np.zeros(0, np.float32), [1.0]).shape == (1, 96, 64)
    assert examples_at(waveform, []).shape == (0, 96, 64)


def test_published_windows_by_hand() -> None:
    # 100 000 samples, 6 snippets: step 16 666, centres at the ends of the segments, 19 200 wide.
    assert published_windows(100_000, 6).tolist() == [
        [7066, 26266], [23732, 42932], [40398, 59598], [57064, 76264], [73730, 92930], [90396, 100000]
    ]  # fmt: skip
    assert published_windows(5000, 2).tolist() == [[0, 5000], [0, 5000]]


def test_published_examples_are_padded_at_their_end_only() -> None:
    waveform = noise(5000)
    result = published_examples(waveform, 2)
    padded = np.concatenate([waveform, np.zeros(19200 - 5000, np.float32)])
    np.testing.assert_array_equal(result, np.repeat(log_mel(padded)[None, :96], 2, axis=0))
    # A window that is cut on the left hears nothing of what follows it.
    first = published_examples(noise(160_000), 33)[0]
    assert (first[(14448 + 159) // 160 :] == SILENCE).all()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"\(2, 400\)"):
        log_mel(np.zeros((2, 400)))
    with pytest.raises(ValueError, match="int16"):
        log_mel(np.zeros(400, np.int16))
    with pytest.raises(ValueError, match="finite"):
        examples_at(noise(400), [np.nan])
    with pytest.raises(AvfusionError, match="3 samples of sound cannot be divided among 4"):
        published_windows(3, 4)
    with pytest.raises(AvfusionError, match="among 0"):
        published_windows(3, 0)
