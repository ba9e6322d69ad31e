"""Log-mel spectrograms and the examples that VGGish sees, exactly as AudioSet's front end makes them.

All functions take mono sound at 16 kHz with values in [-1, 1]. A frame is 25 ms long and begins every 10 ms;
an example is 96 frames, called 0.96 s although it spans 0.975 s of sound.
"""

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from avfusion.errors import AvfusionError

RATE = 16_000
FRAME = 400  # samples
HOP = 160  # samples
FFT = 512
BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
EXAMPLE_FRAMES = 96
EXAMPLE_SAMPLES = (EXAMPLE_FRAMES - 1) * HOP + FRAME
PUBLISHED_WINDOW = 19_200  # samples: the 1.2 s of a tal-hmo snippet
_BLOCK = 8192  # frames at once: bounds memory, whatever the length of the sound


def log_mel(waveform: ArrayLike) -> NDArray[np.float32]:
    """Log-mel spectrogram of 16 kHz sound, computed in float64.

    Periodic Hann window, magnitude (not power) of a 512-point FFT, 64 triangles between 125 and 7500 Hz on
    the HTK mel scale, log(x + 0.01). What does not fill a frame at the end is dropped.

    Args:
        waveform: (samples,).

    Returns:
        (frames, 64) with ``frames = 1 + (samples - 400) // 160``; frame i begins at sample 160 i. Sound that
        is shorter than a frame gives (0, 64).
    """
    waveform = _mono(waveform)
    if waveform.size < FRAME:
        return np.empty((0, BANDS), np.float32)
    frames = sliding_window_view(waveform, FRAME)[::HOP]
    result = np.empty((len(frames), BANDS), np.float32)
    for start in range(0, len(frames), _BLOCK):
        block = slice(start, start + _BLOCK)
        spectrum = np.abs(np.fft.rfft(frames[block] * _hann(), FFT))
        result[block] = np.log(spectrum @ mel_matrix() + LOG_OFFSET)
    return result


def examples(spectrogram: NDArray[np.float32]) -> NDArray[np.float32]:
    """VGGish's own 0.96 s grid: (frames, 64) -> (N, 96, 64), N = frames // 96.

    Example i begins at 0.96 i seconds. Frames at the end that fill no example are dropped, as published.
    """
    count = len(spectrogram) // EXAMPLE_FRAMES
    return spectrogram[: count * EXAMPLE_FRAMES].reshape(count, EXAMPLE_FRAMES, BANDS)


def examples_at(waveform: ArrayLike, centres: ArrayLike, start: float = 0.0) -> NDArray[np.float32]:
    """Examples centred at given times, for audio snippets on the grid of a visual stream.

    Centres are rounded to a grid of 10 ms (an error of 5 ms at most), so that overlapping examples share
    their frames. Outside the sound is silence. Only the part of the sound that the examples see is computed:
    a long list of centres can be worked off in pieces.

    Args:
        waveform: (samples,) at 16 kHz.
        centres: (N,) seconds on the video's clock, in any order.
        start: time of the first sample on that clock.

    Returns:
        (N, 96, 64) float32.
    """
    waveform = _mono(waveform)
    samples = (np.asarray(centres, np.float64) - start) * RATE - EXAMPLE_SAMPLES / 2
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise ValueError("centres must be a list of finite numbers of seconds")
    if not samples.size:
        return np.empty((0, EXAMPLE_FRAMES, BANDS), np.float32)
    first_frames = np.rint(samples / HOP).astype(np.int64)
    low = int(first_frames.min())
    begin, end = low * HOP, int(first_frames.max()) * HOP + EXAMPLE_SAMPLES
    spectrogram = log_mel(_cut(waveform, begin, end))
    windows = sliding_window_view(spectrogram, EXAMPLE_FRAMES, axis=0)  # (starts, 64, 96), a view
    return np.ascontiguousarray(windows[first_frames - low].transpose(0, 2, 1))


def published_windows(samples: int, frames: int) -> NDArray[np.int64]:
    """The windows of tal-hmo: one per visual snippet, 1.2 s wide, cut at the ends of the clip.

    The clip is divided into `frames` segments of ``samples // frames``; window i is centred at the *end* of
    segment i, where one would expect its middle (as published: half a segment late).

    Args:
        samples: length of the clip at 16 kHz.
        frames: number of visual snippets.

    Returns:
        (frames, 2): first sample, and the one after the last.

    Raises:
        AvfusionError: more snippets than samples (the published code then gives all the same window).
    """
    if not 0 < frames <= samples:
        raise AvfusionError(
            f"{samples} samples of sound cannot be divided among {frames} visual snippets; "
            "check that sound and video belong together"
        )
    centres = (np.arange(frames, dtype=np.int64) + 1) * (samples // frames)
    half = PUBLISHED_WINDOW // 2
    return np.stack([np.maximum(centres - half, 0), np.minimum(centres + half, samples)], axis=1)


def published_examples(waveform: ArrayLike, frames: int) -> NDArray[np.float32]:
    """The examples of tal-hmo, one per visual snippet: (samples,) -> (frames, 96, 64).

    Every window of `published_windows` is filled up to 1.2 s with zeros at its end, also where it was cut at
    its start (as published), and holds one example: its first 0.975 s.
    """
    waveform = _mono(waveform)
    result = np.empty((frames, EXAMPLE_FRAMES, BANDS), np.float32)
    for index, (begin, end) in enumerate(published_windows(waveform.size, frames)):
        result[index] = log_mel(_cut(waveform[:end], begin, begin + EXAMPLE_SAMPLES))
    return result


@cache
def mel_matrix() -> NDArray[np.float64]:
    """Weights (257, 64) from FFT bins to bands: triangles on the HTK mel scale; the DC bin weighs nothing."""
    bins = _mel(np.linspace(0.0, RATE / 2, FFT // 2 + 1))[:, None]
    edges = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights


@cache
def _hann() -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)


def _mel(hertz: ArrayLike) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)


def _mono(waveform: ArrayLike) -> NDArray[np.floating]:
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"sound is (samples,) in floating point, not {waveform.shape} of {waveform.dtype}")
    return waveform


def _cut(waveform: NDArray[np.floating], begin: int, end: int) -> NDArray[np.floating]:
    """Samples begin..end, with silence where there are none."""
    result = np.zeros(end - begin, waveform.dtype)
    low, high = max(begin, 0), min(end, waveform.size)
    if low < high:
        result[low - begin : high - begin] = waveform[low:high]
    return result
