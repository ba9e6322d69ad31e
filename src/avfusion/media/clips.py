"""Snippets of a file as arrays, in one pass: windows of frames or of flow, and windows of sound.

Which snippets a video has follows from its time stamps alone (`visual_grid`), so that streams extracted in
different jobs agree even where frames of a damaged file cannot be decoded.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avfusion.data.features import TimeAxis
from avfusion.errors import MediaError
from avfusion.media.audio import Samples, cut_windows, read_blocks, resample_blocks
from avfusion.media.decode import Image, Shown, TimeGrid, VideoReader, centre_crop
from avfusion.media.log_mel import EXAMPLE_SAMPLES, published_windows
from avfusion.media.probe import VideoInfo, too_much_missing
from avfusion.media.snippets import (
    NO_MOTION,
    TAL_HMO_WINDOW,
    AudioGeometry,
    Run,
    SnippetGeometry,
    WindowBuffer,
)
from avfusion.media.stopwatch import Stopwatch

SAMPLE_RATE = 16000
FLOW_PAIRS = 16  # pairs of frames whose flow is computed together
# An example's last log-mel frame begins 10 ms before the example's end and is 25 ms long.
MEL_TAIL = 240
# (T, size, size, channels): RGB, or flow as `quantise` gives it; whole frames where ten crops are to be taken
Clip = NDArray[np.uint8]


@dataclass(frozen=True)
class VisualSource:
    """What a visual stream sees: frames in RGB, or the flow between them.

    Attributes:
        geometry: of its snippets.
        flow: method of optical flow, computed on the CPU; None: RGB, or grey.
        run: snippets that are given together, their frames once.
        grey: give what `avfusion.media.flow.snippet_flow` computes flow from, elsewhere: grey frames (T, H,
            W), whole and with the one that follows the last snippet of a run, if there is one.
    """

    geometry: SnippetGeometry
    flow: str | None = None
    run: int = 1
    grey: bool = False

    def __post_init__(self) -> None:
        if self.flow is not None:
            from avfusion.media.flow import check_method

            check_method(self.flow)
            if self.grey:
                raise ValueError("grey frames have no method of flow")


def visual_grid(info: VideoInfo, geometry: SnippetGeometry) -> tuple[TimeAxis, int]:
    """Time axis and number of snippets of a visual stream, from what `probe` says of the file."""
    grid = _grid(info, geometry)
    return geometry.axis(grid.start, grid.fps), geometry.count(grid.total or 0)


def visual_clips(
    path: str | Path, info: VideoInfo, sources: Mapping[str, VisualSource], threads: int = 1
) -> Iterator[tuple[str, Clip]]:
    """Yield (name, snippets) of all `sources` as they are complete, decoding once; see `visual_runs`.

    Yields:
        The name, and uint8 (T, size, size, 3 or 2) for a run of n snippets, where T is
        ``window + (n - 1) * stride``; the last run of a source may be shorter than `VisualSource.run`. With
        ten crops: frames as wide and high as they are.
    """
    for name, run in visual_runs(path, info, sources, threads):
        yield name, run.stacked()


def visual_runs(
    path: str | Path,
    info: VideoInfo,
    sources: Mapping[str, VisualSource],
    threads: int = 1,
    watch: Stopwatch | None = None,
) -> Iterator[tuple[str, Run]]:
    """The same, as runs of frames that are not put together yet.

    A source has the snippets that `visual_grid` says. Frames of a flow source are the flow from a frame of
    the grid to the next; the last is repeated, so that rgb and flow have the same snippets. Where the first
    or last frames cannot be decoded, the nearest one stands for them.

    Args:
        path: media file.
        info: what `probe` says of it.
        sources: by name.
        threads: decoder threads.
        watch: counts the time of flow.

    Raises:
        MediaError: see `VideoReader`; or more than a second and 5% of the track cannot be decoded.
    """
    watch = watch or Stopwatch()
    cutters = {name: _Cutter(source, _grid(info, source.geometry), watch) for name, source in sources.items()}
    first: Shown | None = None
    with VideoReader(path, threads) as reader:
        for shown in reader:
            first = first or shown
            for name, cutter in cutters.items():
                yield from ((name, run) for run in cutter.push(shown))
    assert first is not None  # a reader without a frame raises
    if too_much_missing(shown.end - first.start, info.end - info.start):
        decoded, whole = shown.end - first.start, info.end - info.start
        raise MediaError(f"only {decoded:.1f} of {whole:.1f} s can be decoded")
    for name, cutter in cutters.items():
        yield from ((name, run) for run in cutter.finish(shown))


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
        frame, so that consecutive windows give the log-mel frames of the whole track. In the scheme of
        tal-hmo: of 15,600 samples, the part of its windows that VGGish hears.

    Raises:
        MediaError: no sound track, none that can be decoded, or (tal-hmo) fewer samples than snippets.
    """
    if geometry.scheme == "tal-hmo" and follow is not None:
        return _published_clips(path, follow[1])
    axis = geometry.axis(None if follow is None else follow[0])
    blocks = _sound(path)
    length = round(axis.window * SAMPLE_RATE) + MEL_TAIL
    indices = itertools.count() if geometry.follow is None or follow is None else range(follow[1])
    starts = (round((axis.first + i * axis.stride - axis.window / 2) * SAMPLE_RATE) for i in indices)
    whole = geometry.follow is None
    return axis, cut_windows(blocks, starts, length, whole)


def _published_clips(path: str | Path, snippets: int) -> tuple[TimeAxis, Iterator[Samples]]:
    """Snippets of tal-hmo. The track is read twice, the first time for its length: it is never held whole."""
    samples = sum(map(len, _sound(path)))
    if samples < snippets:
        raise MediaError(f"{samples} samples of sound cannot be divided among {snippets} visual snippets")
    windows = published_windows(samples, snippets)
    step = samples // snippets / SAMPLE_RATE
    cut = cut_windows(_sound(path), windows[:, 0].tolist(), EXAMPLE_SAMPLES, whole=False)
    return TimeAxis(step, step, TAL_HMO_WINDOW), _silent_from(windows, cut)


def _silent_from(windows: NDArray[np.int64], clips: Iterator[Samples]) -> Iterator[Samples]:
    """The clips without what lies behind the end of their window."""
    for (begin, end), clip in zip(windows.tolist(), clips, strict=True):
        clip[end - begin :] = 0
        yield clip


def _sound(path: str | Path) -> Iterator[Samples]:
    rate, blocks = read_blocks(path)
    return resample_blocks(blocks, rate, SAMPLE_RATE)


def _grid(info: VideoInfo, geometry: SnippetGeometry) -> TimeGrid:
    return TimeGrid(info.fps if geometry.fps is None else geometry.fps, info.start, info.end)


class _Cutter:
    """Frames, in the order shown, to the snippets of one source."""

    def __init__(self, source: VisualSource, grid: TimeGrid, watch: Stopwatch) -> None:
        self._source, self._grid, self._watch = source, grid, watch
        self._windows = WindowBuffer(source.geometry, source.run, following=int(source.grey))
        self._grey: list[Image] = []  # flow: frames whose motion to the next is not computed
        self._motion: Image | None = None  # flow: the last one

    def push(self, shown: Shown) -> Iterator[Run]:
        for _ in self._grid.until(shown.end):
            yield from self._add(shown)

    def finish(self, last: Shown) -> Iterator[Run]:
        for _ in self._grid.rest():
            yield from self._add(last)
        if self._source.flow is not None:  # no frame follows the last one
            yield from self._flows()
            if self._motion is None and self._grey:
                self._motion = self._cropped(np.full((*self._grey[0].shape, 2), NO_MOTION, np.uint8))
            if self._motion is not None:
                yield from self._windows.push(self._motion)
        yield from self._windows.finish()

    def _add(self, shown: Shown) -> Iterator[Run]:
        scale = self._source.geometry.scale
        if self._source.grey:
            yield from self._windows.push(shown.grey(scale))
        elif self._source.flow is None:
            yield from self._windows.push(self._cropped(shown.image(scale)))
        else:
            self._grey.append(shown.grey(scale))
            if len(self._grey) > FLOW_PAIRS:
                yield from self._flows()

    def _flows(self) -> Iterator[Run]:
        """The flow between the frames held, of which the last stays: of whole frames, then cropped."""
        if len(self._grey) < 2 or self._source.flow is None:
            return
        import torch  # what gives grey frames goes without

        from avfusion.media.flow import flow_between, quantise

        with self._watch.during("flow"):
            motions = quantise(flow_between(torch.from_numpy(np.stack(self._grey)), self._source.flow))
        for motion in motions.numpy():
            self._motion = self._cropped(motion)
            yield from self._windows.push(self._motion)
        del self._grey[:-1]

    def _cropped(self, image: Image) -> Image:
        geometry = self._source.geometry
        return (
            np.ascontiguousarray(centre_crop(image, geometry.size)) if geometry.crops == "centre" else image
        )
