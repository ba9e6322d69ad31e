"""Frames of a video by the time at which they are shown.

One pass, one frame of look-ahead: memory does not depend on the length of the video. A frame is shown from
its own time stamp to that of the next one. `TimeGrid` turns that into frames at a uniform rate, so that
several grids (and several streams) can be fed by a single pass; `read_frames` is the simple case.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import av.error
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from avfusion.errors import MediaError
from avfusion.media.container import (
    MAX_GAP,
    check_size,
    frame_rate,
    has_stamps,
    open_media,
    read_packets,
    time_zero,
    video_track,
)

Image = NDArray[np.uint8]  # (height, width, 3) RGB, or (height, width) grey
logger = logging.getLogger("avfusion")


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height after scaling so that the shorter side is `short_side` pixels."""
    if short_side is None:
        return width, height
    scale = short_side / min(width, height)
    return max(short_side, round(width * scale)), max(short_side, round(height * scale))


def centre_crop(image: NDArray[Any], size: int) -> NDArray[Any]:
    """The middle `size` x `size` pixels of an image whose sides are at least that long (a view)."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


class Shown:
    """A decoded frame and the seconds from `start` to `end` during which it is shown."""

    def __init__(self, frame: Any, start: float, end: float, reader: "VideoReader") -> None:
        self.start, self.end = start, end
        self._frame, self._reader = frame, reader
        self._images: dict[int | None, Image] = {}
        self._greys: dict[int | None, Image] = {}

    def image(self, short_side: int | None = None) -> Image:
        """The frame as RGB, turned as its metadata asks and scaled so that its shorter side is `short_side`.

        Scaling is bilinear (cv2.INTER_LINEAR), as the published I3D pipelines do it. The result is shared
        by all who ask for the same size: do not write to it.
        """
        if short_side not in self._images:
            self._images[short_side] = self._reader._convert(self._frame, short_side)
        return self._images[short_side]

    def grey(self, short_side: int | None = None) -> Image:
        """The same in grey (cv2.COLOR_RGB2GRAY), shared likewise: what flow is computed from."""
        if short_side not in self._greys:
            self._greys[short_side] = np.asarray(cv2.cvtColor(self.image(short_side), cv2.COLOR_RGB2GRAY))
        return self._greys[short_side]


class VideoReader:
    """The video track of a file, decoded once from start to end: iterate over it to get `Shown` frames.

    Args:
        path: media file.
        threads: decoder threads; the frames do not depend on it.

    Attributes:
        rate: average frames per second of the track.
        damaged: packets that could not be decoded so far; what is before and after them is used.

    Raises:
        MediaError: not a usable video; when iterating, no frame at all could be decoded, or time stamps
            jump by more than ten minutes.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        with ExitStack() as stack:
            self._container = stack.enter_context(open_media(path))
            self._track = video_track(self._container)
            self._track.thread_count = threads
            self._track.thread_type = "AUTO" if threads > 1 else "NONE"
            self.rate = frame_rate(self._track)
            self._stack = stack.pop_all()
        self.damaged = 0
        self._path = Path(path)
        self._formatter = VideoReformatter()
        self._size: tuple[int, int] | None = None  # of the first frame, upright: all others are brought to it

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Shown]:
        current: tuple[Any, float] | None = None
        for frame, start in self._stamped():
            if current is not None:
                yield Shown(*current, start, self)
            current = frame, start
        if current is None:
            raise MediaError("no frame of its video track can be decoded")
        frame, start = current
        length = float((frame.duration or 0) * self._track.time_base)
        yield Shown(frame, start, start + (length if 0 < length <= MAX_GAP else 1 / self.rate), self)
        if self.damaged:
            logger.warning("%s: %d packets could not be decoded", self._path, self.damaged)

    def _stamped(self) -> Iterator[tuple[Any, float]]:
        """Decoded frames in the order shown, with the second (from the container's start) of each."""
        stamped, base = has_stamps(self._container), self._track.time_base
        zero = time_zero(self._container)
        offset = float((self._track.start_time or 0) * base) - zero  # of counted frames
        first_dts: int | None = None
        last: float | None = None
        for frame in self._decoded():
            if stamped:
                time = None if frame.pts is None else float(frame.pts * base) - zero
            elif frame.dts is None:
                time = None
            else:
                first_dts = frame.dts if first_dts is None else first_dts
                time = float((frame.dts - first_dts) * base) + offset
            if time is None:  # goes on where the one before ends
                time = max(offset, 0.0) if last is None else last + 1 / self.rate
            elif last is not None and time > last + MAX_GAP:
                raise MediaError(f"its time stamps jump from {last:.1f} s to {time:.1f} s")
            last = time if last is None else max(time, last)  # a stamp that goes back stays where it was
            yield frame, last

    def _decoded(self) -> Iterator[Any]:
        for packet in read_packets(self._container, self._track):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.damaged += 1
            else:
                yield from frames

    def _convert(self, frame: Any, short_side: int | None) -> Image:
        check_size(frame.width, frame.height)
        image = self._formatter.reformat(frame, format="rgb24").to_ndarray()
        image = np.rot90(image, round(frame.rotation / 90) % 4)
        if self._size is None:
            self._size = image.shape[1], image.shape[0]
        size = scaled_size(*self._size, short_side)
        if (image.shape[1], image.shape[0]) == size:
            return np.ascontiguousarray(image)
        return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR))


class TimeGrid:
    """Frames at a uniform rate, chosen by time: at every grid time, the frame shown then.

    The grid begins at `start`. For a constant frame rate and the rate of the track, every frame is taken
    exactly once.

    Args:
        fps: grid times per second.
        start: second of grid time 0.
        end: second at which the grid ends, if that is known; it then has one time at least.

    Attributes:
        count: grid times handed out.
        total: grid times that there will be; None if the end is not known.
    """

    def __init__(self, fps: float, start: float, end: float | None = None) -> None:
        self.fps, self.start, self.count = fps, start, 0
        # Containers round stamps (Matroska to 1 ms): a frame that starts this little after a grid time is in.
        self._tolerance = min(0.1 / fps, 0.002)
        span = None if end is None else (end - start - self._tolerance) * fps
        self.total = None if span is None else max(1, math.ceil(span))

    def until(self, time: float) -> Iterator[float]:
        """Grid times before `time` that were not handed out: those of the frame that is shown up to then."""
        while self._at(self.count) < time - self._tolerance and self.count != self.total:
            self.count += 1
            yield self._at(self.count - 1)

    def rest(self) -> Iterator[float]:
        """Grid times up to the known end that were not handed out."""
        while self.total is not None and self.count < self.total:
            self.count += 1
            yield self._at(self.count - 1)

    def _at(self, index: int) -> float:
        return self.start + index / self.fps


def read_frames(
    path: str | Path,
    fps: float | None = None,
    short_side: int | None = None,
    size: int | None = None,
    threads: int = 1,
) -> Iterator[tuple[float, Image]]:
    """Yield (second, frame) on a uniform time grid.

    Args:
        path: media file.
        fps: frames per second of the grid; None takes the track's average rate, which for a constant frame
            rate gives every frame once.
        short_side: scale so that the shorter side has this many pixels (default: `size`, if that is given).
        size: cut the middle `size` x `size` pixels.
        threads: decoder threads.

    Yields:
        Seconds from the container's start, and uint8 (height, width, 3) RGB. A frame that falls on several
        grid times is the same array each time: do not write to it.

    Raises:
        MediaError: see `VideoReader`.
    """
    side = short_side if short_side is not None else size
    if size is not None and side is not None and side < size:
        raise ValueError(f"a crop of {size} does not fit a shorter side of {side}")
    with VideoReader(path, threads) as reader:
        grid: TimeGrid | None = None
        for shown in reader:
            grid = grid or TimeGrid(fps if fps is not None else reader.rate, shown.start)
            for time in grid.until(shown.end):
                image = shown.image(side)
                yield time, image if size is None else centre_crop(image, size)
