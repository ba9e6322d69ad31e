"""What a media file holds, and whether it can be used, found by reading all its packets once.

Nothing is decoded but the first frame, so that this costs about as much as reading the file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av.error

from avfusion.errors import MediaError
from avfusion.media.container import (
    MAX_GAP,
    audio_track,
    frame_rate,
    has_stamps,
    open_media,
    read_packets,
    time_zero,
    video_track,
)

MISSING_SHARE, MISSING_SECONDS = 0.05, 1.0  # what may be missing at the end of a file that is still used


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a media file with a usable video track.

    Attributes:
        duration: seconds from the container's start to the end of its last frame or sample.
        fps: average frames per second of the video track.
        frames: packets of the video track that are shown, each of which is a frame.
        width: pixels of a frame as shown, that is, after turning it as its metadata asks.
        height: likewise.
        has_audio: whether there is sound that can be decoded.
        sample_rate: of the sound in Hz; 0 without.
        start: second at which the first frame is shown.
        end: second at which the last frame ends.
    """

    duration: float
    fps: float
    frames: int
    width: int
    height: int
    has_audio: bool
    sample_rate: int
    start: float
    end: float


class _Extent:
    """Packets of one track: their number and the seconds that they cover."""

    def __init__(self, container: Any, track: Any, step: float) -> None:
        self._track, self._zero, self._step = track, time_zero(container), step
        self._stamped = track.type != "video" or has_stamps(container)
        self.packets, self.start, self.end = 0, 0.0, 0.0
        self._latest = None

    def add(self, packet: Any) -> None:
        if packet.is_discard or not packet.size:
            return
        stamp = packet.pts if self._stamped and packet.pts is not None else packet.dts
        start = self.end if stamp is None else float(stamp * packet.time_base) - self._zero
        if self.packets and start > self.end + MAX_GAP:
            raise MediaError(f"its time stamps jump from {self.end:.1f} s to {start:.1f} s")
        length = float((packet.duration or 0) * packet.time_base)
        self.start = min(self.start, start) if self.packets else start
        self.end = max(self.end, start + (length if 0 < length <= MAX_GAP else self._step))
        self.packets += 1


def probe(path: str | Path) -> VideoInfo:
    """Look into a media file.

    A file that ends early is used as far as it goes if at most a second or 5% of what its header declares
    is missing; otherwise it is refused.

    Raises:
        MediaError: no usable video; the text is a short plain reason.
    """
    with open_media(path) as container:
        video = video_track(container)
        audio = audio_track(container)
        fps = frame_rate(video)
        shown = _Extent(container, video, 1 / fps)
        heard = None if audio is None else _Extent(container, audio, 0.0)
        first: Any = None
        for packet in read_packets(container, *(track for track in (video, audio) if track is not None)):
            if packet.stream_index == video.index:
                shown.add(packet)
                first = first or _decode_first(packet)
            elif heard is not None:
                heard.add(packet)
        if not shown.packets:
            raise MediaError("its video track is empty")
        tracks = [track for track in (shown, heard) if track is not None and track.packets]
        duration = max(track.end for track in tracks)
        _refuse_truncated(container, duration)
        if first is None:
            raise MediaError("no frame of its video track can be decoded")
        turned = round(first.rotation / 90) % 2 == 1
        has_audio = heard is not None and heard.packets > 0
        return VideoInfo(
            duration=duration,
            fps=fps,
            frames=shown.packets,
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            has_audio=has_audio,
            sample_rate=int(audio.codec_context.sample_rate) if audio is not None and has_audio else 0,
            start=shown.start,
            end=shown.end,
        )


def too_much_missing(seconds: float, of: float) -> bool:
    """Whether a file of which `seconds` can be used is too far from its full length to be used at all."""
    return of - seconds > max(MISSING_SECONDS, MISSING_SHARE * of)


def _decode_first(packet: Any) -> Any | None:
    try:
        return next(iter(packet.decode()), None)
    except av.error.FFmpegError:
        return None


def _refuse_truncated(container: Any, readable: float) -> None:
    declared = (container.duration or 0) / av.time_base
    if too_much_missing(readable, declared):
        raise MediaError(f"truncated: {readable:.1f} of {declared:.1f} s readable")
