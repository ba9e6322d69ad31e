"""Snippets of a file as arrays, in one pass: windows of frames or of flow, and windows of sound.

Which snippets a video has follows from its time stamps alone (`visual_grid`), so that streams extracted in
different jobs agree even where frames of a damaged file cannot be decoded.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from avfusion.data.features import TimeAxis
from avfusion.errors import MediaError
from avfusion.media.audio import Samples, cut_windows, read_blocks, resample_blocks
from avfusion.media.decode import Image, Shown, TimeGrid, VideoReader, centre_crop
from avfusion.media.flow import check_method, optical_flow, quantise
from avfusion.media.probe import VideoInfo, too_much_missing
from avfusion.media.snippets import AudioGeometry, SnippetGeometry, WindowBuffer

SAMPLE_RATE = 16000
# An example's last log-mel frame begins 10 ms before the example's end and is 25 ms long.
MEL_TAIL = 240
Clip = NDArray[np.uint8]  # (window, size, size, channels): RGB, or flow as `quantise` gives it


@dataclass(frozen=True)
class VisualSource:
    """What a visual stream sees: frames in RGB, or the flow between them.

    Attributes:
        geometry: of its snippets.
        flow: method of optical flow; None: RGB.
    """

    geometry: SnippetGeometry
    flow: str | None = None

    def __post_init__(self) -> None:
        if self.flow is not None:
            check_method(self.flow)


def visual_grid(info: VideoInfo, geometry: SnippetGeometry) -> tuple[TimeAxis, int]:
    """Time axis and number of snippets of a visual stream, from what `probe` says of the file."""
    grid = _grid(info, geometry)
    return geometry.axis(grid.start, grid.fps), geometry.count(grid.total or 0)


def visual_clips(
    path: str | Path, info: VideoInfo, sources: Mapping[str, VisualSource], threads: int = 1
) -> Iterator[tuple[str, Clip]]:
    """Yield (name, snippet) of all `sources` as they are complete, decoding once.

    A source has the snippets that `visual_grid` says. Frames of a flow source are the flow from a frame of
    the grid to the next; the last is repeated, so that rgb and flow have the same snippets. Where the first
    or last frames cannot be decoded, the nearest one stands for them.

    Args:
        path: media file.
        info: what `probe` says of it.
        sources: by name.
        threads: decoder threads.

    Yields:
        The name, and uint8 (window, size, size, 3 or 2).

    Raises:
        MediaError: see `VideoReader`; or more than a second and 5% of the track cannot be decoded.
    """
    cutters = {name: _Cutter(source, _grid(info, source.geometry)) for name, source in sources.items()}
    first: Shown | None = None
    with VideoReader(path, threads) as reader:
        for shown in reader:
            first = first or shown
            for name, cutter in cutters.items():
                yield from ((name, clip) for clip in cutter.push(shown))
    assert first is not None  # a reader without a frame raises
    if too_much_missing(shown.end - first.start, info.end - info.start):
        decoded, whole = shown.end - first.start, info.end - info.start
        raise MediaError(f"only {decoded:.1f} of {whole:.1f} s can be decoded")
    for name, cutter in cutters.items():
        yield from ((name, clip) for clip in cutter.finish(shown))


def audio_clips(
    path: str | Path, geometry: AudioGeometry, follow: tuple[TimeAxis, int] | None = None
) -> tuple[TimeAxis, Iterator[Samples]]:
    """Time axis of the sound, and an iterator over its snippets at 16 kHz.

    Args:
        path: media file.
        geometry: of the snippets.
        follow: what `visual_grid` says, if the geometry follows a visual stream.

    Returns:
        The axis, and float32 windows of ``window * 16000 + 240`` samples: the 240 belong to the last log-mel
        frame, so that consecutive windows give the log-mel frames of the whole track.

    Raises:
        MediaError: no sound track, or none that can be decoded.
    """
    axis = geometry.axis(None if follow is None else follow[0])
    rate, blocks = read_blocks(path)
    length = round(axis.window * SAMPLE_RATE) + MEL_TAIL
    indices = itertools.count() if geometry.follow is None or follow is None else range(follow[1])
    starts = (round((axis.first + i * axis.stride - axis.window / 2) * SAMPLE_RATE) for i in indices)
    whole = geometry.follow is None
    return axis, cut_windows(resample_blocks(blocks, rate, SAMPLE_RATE), starts, length, whole)


def _grid(info: VideoInfo, geometry: SnippetGeometry) -> TimeGrid:
    return TimeGrid(info.fps if geometry.fps is None else geometry.fps, info.start, info.end)


class _Cutter:
    """Frames, in the order shown, to the snippets of one source."""

    def __init__(self, source: VisualSource, grid: TimeGrid) -> None:
        self._source, self._grid = source, grid
        self._windows = WindowBuffer(source.geometry)
        self._grey: Image | None = None  # flow: the last frame of the grid
        self._motion: Image | None = None  # flow: the last one

    def push(self, shown: Shown) -> Iterator[Clip]:
        for _ in self._grid.until(shown.end):
            yield from self._add(shown)

    def finish(self, last: Shown) -> Iterator[Clip]:
        for _ in self._grid.rest():
            yield from self._add(last)
        if self._source.flow is not None:  # no frame follows the last one
            size = self._source.geometry.size
            still = quantise(np.zeros((size, size, 2), np.float32))
            yield from self._windows.push(still if self._motion is None else self._motion)
        yield from self._windows.finish()

    def _add(self, shown: Shown) -> Iterator[Clip]:
        image, size = shown.image(self._source.geometry.scale), self._source.geometry.size
        if self._source.flow is None:
            yield from self._windows.push(np.ascontiguousarray(centre_crop(image, size)))
            return
        previous, self._grey = self._grey, np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        if previous is not None:  # the flow of the whole frame, of which the middle is kept
            flow = optical_flow(previous, self._grey, self._source.flow)
            self._motion = quantise(np.ascontiguousarray(centre_crop(flow, size)))
            yield from self._windows.push(self._motion)
