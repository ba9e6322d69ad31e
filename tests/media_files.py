"""Small media files made on the spot by PyAV, for tests of everything that reads media."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, RATE = 96, 64, 44100


def level(image: NDArray[np.uint8]) -> float:
    """Mean grey level of the middle of a frame: what `write_video` numbered it with."""
    height, width = image.shape[:2]
    return float(image[height // 4 : -height // 4, width // 4 : -width // 4].mean())


def number(image: NDArray[np.uint8]) -> int:
    """Number of the frame, modulo 20, as `write_video` drew it."""
    return round((level(image) - 20) / 10)


def write_video(
    path: Path,
    times: Sequence[float] | NDArray[np.float64],
    rate: Fraction | int = 25,
    codec: str = "libx264",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    time_base: Fraction = Fraction(1, 90000),
    b_frames: int = 2,
    sound: NDArray[np.floating[Any]] | None = None,
    sound_start: float = 0.0,
    sound_codec: str = "aac",
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video whose frame i is shown at ``times[i]`` and is grey with level 20 + 10 * (i % 20).

    Args:
        path: its suffix names the container.
        times: seconds; empty for a file without pictures.
        sound: mono samples at 44.1 kHz, full scale 1; None for a silent file.
        sound_start: second of the first sample.
    """
    with av.open(str(path), "w", options=options or {}) as out:
        video: Any = None
        if len(times):
            video = out.add_stream(codec, rate=rate)
            video.width, video.height = size
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = time_base
            video.codec_context.thread_count = 1
            if codec in ("libx264", "mpeg4"):
                video.codec_context.max_b_frames = b_frames
            video.bit_rate = 2_000_000  # enough to keep every grey level
        audio: Any = None
        if sound is not None:
            audio = out.add_stream(sound_codec, rate=RATE, layout="mono")
        for i, time in enumerate(times):
            image = np.full((size[1], size[0], 3), 20 + 10 * (i % 20), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / time_base), time_base
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode(None))
        if sound is not None:
            _encode_sound(out, audio, np.asarray(sound), round(sound_start * RATE))
    return path


def _encode_sound(out: Any, audio: Any, sound: NDArray[np.floating[Any]], first: int) -> None:
    for begin in range(0, len(sound), 1024):
        block = sound[None, begin : begin + 1024].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")  # converted by the encoder
        frame.sample_rate, frame.pts, frame.time_base = RATE, first + begin, Fraction(1, RATE)
        out.mux(audio.encode(frame))
    out.mux(audio.encode(None))


def turn(path: Path, degrees: int) -> Path:
    """Give the first track of an MP4 file a display matrix: players then turn it clockwise by `degrees`."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    content = bytearray(path.read_bytes())
    box = content.index(b"tkhd")
    matrix = struct.pack(">9i", cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    content[box + 44 : box + 44 + 36] = matrix  # version 0: the matrix begins 40 bytes behind the version
    path.write_bytes(bytes(content))
    return path


def skip(path: Path, seconds: float) -> Path:
    """Change the edit list of an MP4 file's first track so that players skip its first seconds."""
    content = bytearray(path.read_bytes())
    media_header = content.index(b"mdhd")
    (ticks,) = struct.unpack_from(">I", content, media_header + 16)
    edits = content.index(b"elst")
    count, duration, media_time = struct.unpack_from(">IIi", content, edits + 8)
    assert count == 1
    entry = (duration - round(seconds * 1000), media_time + round(seconds * ticks))
    struct.pack_into(">Ii", content, edits + 12, *entry)
    path.write_bytes(bytes(content))
    return path


def tone(seconds: float, frequency: float = 440.0, rate: int = RATE) -> NDArray[np.float64]:
    """A sine of amplitude 0.4."""
    return 0.4 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
