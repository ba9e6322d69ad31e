"""The sound track of a file as mono samples from time zero on, and at 16 kHz.

Everything works in blocks: `read_blocks` and `resample_blocks` hold a few seconds at a time;
`read_audio` and `resample` are the same for a whole track in memory.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import av.error
import numpy as np
from numpy.typing import NDArray

from avfusion.errors import MediaError
from avfusion.media.container import MAX_GAP, audio_track, open_media, read_packets, time_zero
from avfusion.media.resample import kaiser_best

Samples = NDArray[np.float32]
NO_SOUND = "no sound track"
MAX_DRIFT = 0.1  # seconds; stamps further than this from the samples counted mean lost or doubled sound
RATES = range(1000, 768_001)  # samples per second; others are found in damaged headers only
MAX_CHANNELS = 24
BLOCK_SECONDS = 10.0
MIXED_TOGETHER = 2**16  # samples that are mixed at once, about
_NOTHING = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Waveform:
    """Mono sound.

    Attributes:
        samples: float32 (N,), full scale 1.
        rate: samples per second.
        start: second of sample 0 from the container's start; `read_audio` pads and trims so that it is 0.
    """

    samples: Samples
    rate: int
    start: float = 0.0

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate


def read_blocks(path: str | Path) -> tuple[int, Iterator[Samples]]:
    """Open the sound track: samples per second, and consecutive blocks of mono samples from time zero on.

    The channels' mean of what a 16-bit decoder gives, divided by 32768, as AudioSet's front end reads WAV
    files. A track that starts late begins with silence; one that starts before the container is trimmed; so
    are gaps and overlaps of more than 0.1 s inside it.

    Raises:
        MediaError: there is no sound track or none of it can be decoded; when iterating, time stamps jump
            by more than ten minutes.
    """
    blocks = _blocks(path)
    try:
        rate = next(blocks)
    except StopIteration:
        raise MediaError("its sound track is empty or cannot be decoded") from None
    assert isinstance(rate, int)
    return rate, (block for block in blocks if not isinstance(block, int))


def _blocks(path: str | Path) -> Iterator[int | Samples]:
    """The sampling rate, once the first frame is decoded, then the blocks."""
    with open_media(path) as container:
        track = audio_track(container)
        if track is None:
            raise MediaError(NO_SOUND)
        zero, rate, done = time_zero(container), 0, 0
        held = _Held()
        for frame in _decoded(container, track):
            values = _values(frame)
            if not rate:
                rate = frame.sample_rate
                if rate not in RATES:
                    raise MediaError(f"its sound track declares {rate} samples per second")
                yield rate
            if frame.sample_rate != rate:
                raise MediaError(f"its sound changes from {rate} to {frame.sample_rate} samples per second")
            place = done if frame.pts is None else round((float(frame.pts * track.time_base) - zero) * rate)
            if done == 0 or abs(place - done) > MAX_DRIFT * rate:
                if place - done > MAX_GAP * rate:
                    raise MediaError(f"the stamps of its sound jump to {place / rate:.1f} s")
                yield from held.flush()
                if place > done:
                    yield np.zeros(place - done, dtype=np.float32)
                    done = place
                values = values[done - place :]
            done += len(values)
            yield from held.add(values)
        yield from held.flush()


class _Held:
    """What decoded frames hold, until it is worth being mixed: frames are too short to be treated singly."""

    def __init__(self) -> None:
        self._values: list[NDArray[Any]] = []
        self._count = 0

    def add(self, values: NDArray[Any]) -> Iterator[Samples]:
        """Values (samples, channels) that follow those before."""
        if self._values and (
            self._values[0].dtype != values.dtype or self._values[0].shape[1] != values.shape[1]
        ):
            yield from self.flush()
        self._values.append(values)
        self._count += len(values)
        if self._count >= MIXED_TOGETHER:
            yield from self.flush()

    def flush(self) -> Iterator[Samples]:
        """All of them as one block."""
        if self._values:
            yield _mono(np.concatenate(self._values))
            self._values, self._count = [], 0


def _decoded(container: Any, track: Any) -> Iterator[Any]:
    for packet in read_packets(container, track):
        try:
            yield from filter(_is_sound, packet.decode())
        except av.error.FFmpegError:  # one damaged packet; the stamps of the next say where it belongs
            continue


def _is_sound(frame: Any) -> bool:
    """Whether a decoded frame can be read: damaged AAC may announce channels for which there is no memory."""
    planes = frame.layout.nb_channels if frame.format.is_planar else 1
    return 0 < frame.layout.nb_channels <= MAX_CHANNELS and len(frame.planes) == planes


def _values(frame: Any) -> NDArray[Any]:
    """What a decoded frame holds, (samples, channels), as it was coded."""
    values: NDArray[Any] = frame.to_ndarray()  # (channels, samples), or (1, samples * channels) if packed
    return values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)


def _mono(values: NDArray[Any]) -> Samples:
    """Mean of the channels of (samples, channels), from 16-bit values as a decoder to WAV would give them."""
    # In float32 where that is exact: values of 16 bits, and a float times 2**15.
    exact = values.dtype.itemsize <= 2 or values.dtype == np.float32
    pcm: Any = values.astype(np.float32 if exact else np.float64)
    if values.dtype == np.uint8:
        pcm = (pcm - 128) * 256
    elif values.dtype.kind == "i":
        pcm /= 2.0 ** (8 * values.dtype.itemsize - 16)
    else:
        with np.errstate(over="ignore"):
            pcm *= 32768
    np.clip(np.rint(pcm, out=pcm), -32768, 32767, out=pcm)
    np.nan_to_num(pcm, copy=False)
    if pcm.shape[1] == 1:
        return np.asarray(pcm[:, 0] / 32768, dtype=np.float32)
    return np.asarray(pcm.mean(axis=1, dtype=np.float64) / 32768, dtype=np.float32)


def resample_blocks(blocks: Iterable[Samples], rate: int, target: int) -> Iterator[Samples]:
    """Resample consecutive blocks with resampy's kaiser_best filter, the one of the published VGGish ports.

    Equal to resampling everything at once, to rounding: pieces begin where an input and an output sample
    coincide, and see as much of their neighbours as the filter does. N samples become N * target // rate.
    """
    if rate == target:
        yield from blocks
        return
    common = math.gcd(rate, target)
    unit_in, unit_out = rate // common, target // common  # samples from one coincidence to the next
    reach = math.ceil((64 * max(1.0, rate / target) + 2) / unit_in) * unit_in  # 64 zero crossings a side
    before, current = _NOTHING, _NOTHING
    for following in chain(
        _rechunk(blocks, max(reach, math.ceil(BLOCK_SECONDS * common) * unit_in)), [_NOTHING]
    ):
        count = len(current) * target // rate
        if count:
            piece = np.concatenate([before, current, following[:reach]])
            done = len(before) // unit_in * unit_out
            resampled = kaiser_best(piece, rate, target)
            yield resampled[done : done + count].astype(np.float32)
        before, current = current[-reach:], following


def _rechunk(blocks: Iterable[Samples], size: int) -> Iterator[Samples]:
    """The same samples in blocks of `size`, the last one shorter."""
    parts: list[Samples] = []
    for block in blocks:
        parts.append(block)
        if sum(map(len, parts)) >= size:
            joined = np.concatenate(parts)
            whole = len(joined) - len(joined) % size
            yield from joined[:whole].reshape(-1, size)
            parts = [joined[whole:]]
    yield np.concatenate([*parts, _NOTHING])


def read_audio(path: str | Path) -> Waveform:
    """Read a whole sound track; see `read_blocks`."""
    rate, blocks = read_blocks(path)
    return Waveform(np.concatenate([*blocks, _NOTHING]), rate)


def resample(waveform: Waveform, rate: int = 16000) -> Waveform:
    """Resample a whole waveform; see `resample_blocks`."""
    blocks = resample_blocks([waveform.samples], waveform.rate, rate)
    return Waveform(np.concatenate([*blocks, _NOTHING]), rate, waveform.start)


def cut_windows(
    blocks: Iterable[Samples], starts: Iterable[int], length: int, whole: bool
) -> Iterator[Samples]:
    """Cut windows out of consecutive blocks, holding no more of them than a window needs.

    Args:
        blocks: samples from time zero on.
        starts: first sample of each window, rising; may be negative.
        length: samples of a window.
        whole: end before the first window that is not wholly inside (the very first one is given all the
            same); otherwise give all of them. What lies outside is silence.
    """
    source = iter(blocks)
    held, origin, ended = _NOTHING, 0, False  # held[0] is sample `origin`
    for index, start in enumerate(starts):
        while not ended and origin + len(held) < start + length:
            block = next(source, None)
            ended = block is None
            if block is not None:
                drop = min(max(0, start - origin), len(held))
                held, origin = np.concatenate([held[drop:], block]), origin + drop
        if whole and index and start + length > origin + len(held):
            return
        window = np.zeros(length, dtype=np.float32)
        low, high = max(start, origin), min(start + length, origin + len(held))
        if low < high:
            window[low - start : high - start] = held[low - origin : high - origin]
        yield window
