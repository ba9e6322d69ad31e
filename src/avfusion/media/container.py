"""Opening media files, and what is asked of every container: which track, which rate, where time zero is.

Time zero is the container's start, as players show it: the smallest start of its tracks. A track that
starts later starts later. Non-square pixels are left as they are coded, as the published pipelines did.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from avfusion.errors import MediaError

MAX_GAP = 600.0  # seconds; a longer step between two frames means damaged stamps, not a still picture
MAX_PIXELS = 8192 * 8192
MAX_FPS = 1000.0
# What may be opened: no playlists or scripts, which name other files; images, so that they can be told apart.
_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,ogg,rm,nut,mxf,gif,dv,ivf,av1,obu,"
    "wav,w64,aiff,mp3,aac,flac,ac3,eac3,amr,caf,au,"
)
_IMAGES = "image2,bmp_pipe,jpeg_pipe,jpegls_pipe,png_pipe,tiff_pipe,webp_pipe,apng"
# Titles may be in any encoding. From PyAV 19 on that is never an error, and no argument any more.
_TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS + _IMAGES}


@contextmanager
def open_media(path: str | Path) -> Iterator[InputContainer]:
    """Open a media file for reading.

    Raises:
        MediaError: with a short plain reason, whatever is wrong with the file.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise MediaError("a folder, not a video")
        with file.open("rb") as stream:
            head = stream.read(12)
    except FileNotFoundError:
        raise MediaError("no such file") from None
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})") from error
    if not head:
        raise MediaError("the file is empty")
    try:
        # An absolute path cannot be taken for a URL.
        container = av.open(str(file.absolute()), options=dict(_OPTIONS), **_TOLERANT)
    except av.error.FFmpegError as error:
        raise MediaError(_why_not_opened(head, error)) from error
    with container:
        if container.format.name in _IMAGES.split(","):
            raise MediaError("an image, not a video")
        yield container


def _why_not_opened(head: bytes, error: av.error.FFmpegError) -> str:
    if head[4:8] == b"ftyp":
        return "truncated: an MP4 file whose index (moov) is missing or damaged"
    if head.startswith((b"\x1aE\xdf\xa3", b"RIFF")):  # Matroska, AVI
        return "truncated or damaged: its header cannot be read"
    # FFmpeg calls a format that is not in the list an invalid argument.
    known = isinstance(error, av.error.InvalidDataError | av.error.ArgumentError)
    return "not a video file" if known else f"cannot be opened ({error.strerror})"


def video_track(container: InputContainer) -> Any:
    """The first video stream that is not a cover picture.

    Raises:
        MediaError: there is none, or nothing here can decode it.
    """
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            continue
        if stream.codec_context is None:
            raise MediaError("no decoder for its video track")
        check_size(stream.codec_context.width, stream.codec_context.height)
        return stream
    raise MediaError("no video track")


def audio_track(container: InputContainer) -> Any | None:
    """The first sound track that can be decoded, or None."""
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def read_packets(container: InputContainer, *tracks: Any) -> Iterator[Any]:
    """Packets of some tracks, up to the end of the file or to where damage makes it unreadable."""
    packets = container.demux(*tracks)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        except IndexError:  # a packet of a track that turned up late, which PyAV does not know
            packets = container.demux(*tracks)
        else:
            yield packet


def check_size(width: int, height: int) -> None:
    """Refuse frames that only a damaged header can declare, before memory is asked for them.

    Raises:
        MediaError: larger than 8192 x 8192 pixels, or more than 32 times as long as wide.
    """
    if width * height > MAX_PIXELS or max(width, height) > 32 * max(1, min(width, height)):
        raise MediaError(f"frames of {width}x{height} pixels cannot be used")


def time_zero(container: InputContainer) -> float:
    """Second of the stream's clock at which the container starts."""
    return (container.start_time or 0) / av.time_base


def frame_rate(stream: Any) -> float:
    """Average frames per second of a video stream.

    Containers compute the average from the track's length, which a last frame of odd length falsifies; where
    the finest rate that fits all stamps is within 1% of it, the track has a constant rate and that is it.

    Raises:
        MediaError: the track declares no rate, or an impossible one.
    """
    average, base = (float(rate) if rate else 0.0 for rate in (stream.average_rate, stream.base_rate))
    rate = base if base and abs(base - average) <= 0.01 * average else average or base
    if not 0 < rate <= MAX_FPS:
        raise MediaError(f"its video track declares {rate:g} frames per second")
    return rate


def has_stamps(container: InputContainer) -> bool:
    """Whether the container stores when a frame is to be shown.

    AVI does not; FFmpeg's guess is wrong by a frame here and there when there are B-frames, so that the
    order of decoding is counted instead.
    """
    return container.format.name != "avi"
