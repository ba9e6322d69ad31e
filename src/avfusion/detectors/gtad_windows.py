"""Windows and training targets of G-TAD, in the frames that the published code counts.

Snippet i of a sequence sits at frame ``skip * i``, so that a frame is the `skip`-th part of a stride; frames
need not be whole numbers. All that follows (truncated offsets, regions three snippets wide, which windows
there are) is the arithmetic of ``VideoDataSet`` of the G-TAD code, whose quirks golden/README.md lists as 24
and 25. The functions `to_frames` and `to_seconds` are the only ones that know of seconds.

The published code is at odds with itself by up to half a snippet: cell i of the IoU map is trained to mean
what begins at ``int(frame - skip / 2)``, and read at inference as what begins at ``frame``. A `Grid` that is
`exact` lets both mean the cell of the snippet, from half a stride before its centre on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.detectors.base import channels_first
from avfusion.evaluation.segments import paired_iou

REGION = 3  # width of the region around a boundary in which a snippet counts as start or end, in snippets
INSIDE = 0.9  # a window trains if more than this share of some instance lies in it
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The candidates of a window: the `durations` shortest segments that begin with each of its snippets.

    Candidate (d, i) covers the snippets i to i + d. Those that reach beyond the window are in the maps, which
    are rectangular, but stand for nothing.

    Attributes:
        scale: snippets T of a window.
        durations: lengths D of a candidate, from 1 snippet on.
        skip: frames from one snippet to the next.
        exact: where candidates begin; see the module's text.
        centred: the region of a start or end lies around the boundary itself and snippets count as
            intervals around their centre (published, THUMOS14); false compares the boundary with where
            candidates begin (published, ActivityNet, where both are multiples of 1 / T).
    """

    scale: int
    durations: int
    skip: int
    exact: bool = False
    centred: bool = True

    def mask(self, shortest: int = 0) -> NDArray[np.float32]:
        """(D, T), 1 where a candidate lies within the window and is longer than `shortest` snippets."""
        duration, start = np.ogrid[: self.durations, : self.scale]
        return ((start + duration < self.scale) & (duration >= shortest)).astype(np.float32)

    def offset(self, first: int) -> float:
        """Frame at which cell 0 of the training targets begins, in a window from snippet `first` on."""
        begin = self.skip * first - self.skip / 2
        return begin if self.exact else float(int(begin))


@dataclass(frozen=True, eq=False)
class Targets:
    """What the maps of a window should be: float32 start (T,), end (T,) and iou (D, T), all in [0, 1]."""

    start: NDArray[np.float32]
    end: NDArray[np.float32]
    iou: NDArray[np.float32]


def window_starts(snippets: int, grid: Grid, cover: bool = False) -> list[int]:
    """First snippets of the windows of a sequence: every half window, and one that ends with the sequence.

    A sequence shorter than a window has one window, which it does not fill.

    Args:
        snippets: length of the sequence.
        grid: gives the length of a window.
        cover: add the last window whenever snippets are left; as published it is added only if more than
            ``scale // skip`` are, so that up to so many are never seen.
    """
    if snippets <= grid.scale:
        return [0]
    starts = list(range(0, snippets - grid.scale + 1, grid.scale // 2))
    left = snippets - grid.scale - starts[-1]
    if left > (0 if cover else grid.scale // grid.skip):
        starts.append(snippets - grid.scale)
    return starts


def instances_of_window(instances: Floats, first: int, grid: Grid) -> Floats | None:
    """The instances that a window sees something of; None if it is not to be trained on.

    Args:
        instances: (G, 2) in frames.
        first: first snippet of the window.
        grid: of the window.
    """
    half = grid.skip / 2
    begin, end = grid.skip * first - half, grid.skip * (first + grid.scale - 1) + half
    shared = np.minimum(instances[:, 1], end) - np.maximum(instances[:, 0], begin)
    length = instances[:, 1] - instances[:, 0]
    if not (shared > INSIDE * length).any():
        return None
    return instances[shared > 0]


def window_targets(instances: Floats, first: int, grid: Grid) -> Targets:
    """Targets of a window from the instances that it sees, (G, 2) in frames with G >= 1.

    `start` and `end` are the share of a snippet's cell that the region around a boundary covers, the region
    being three snippets wide; `iou` is the overlap with the best instance, as far as the window shows it.
    """
    offset, half = grid.offset(first), grid.skip / 2
    snippets = grid.skip * (first + np.arange(grid.scale, dtype=np.float64))
    if not grid.centred:
        snippets -= half

    def region(boundaries: Floats) -> NDArray[np.float32]:
        wide = REGION * half
        low = np.maximum(snippets - half, boundaries[:, None] - wide)
        high = np.minimum(snippets + half, boundaries[:, None] + wide)
        return (np.maximum(high - low, 0) / grid.skip).max(axis=0).astype(np.float32)

    seen = np.clip((instances - offset) / (grid.skip * grid.scale), 0, 1)
    begin = np.arange(grid.scale)
    candidates = np.empty((grid.durations, grid.scale, 2))
    candidates[..., 0] = begin / grid.scale
    candidates[..., 1] = (begin + np.arange(1, grid.durations + 1)[:, None]) / grid.scale
    iou = np.zeros((grid.durations, grid.scale))
    for instance in seen:
        np.maximum(iou, paired_iou(candidates, instance), out=iou)
    return Targets(region(instances[:, 0]), region(instances[:, 1]), iou.astype(np.float32))


def candidate_frames(first: int, grid: Grid, to_the_end: bool = False) -> tuple[NDArray[np.bool_], Floats]:
    """Which candidates of a window are proposed, as a mask (D, T), and their [start, end] in frames, (N, 2).

    The order is by duration, then by start, as the mask picks them from a map.

    Args:
        first: first snippet of the window.
        grid: of the window.
        to_the_end: also those that end with the window, which the published code leaves out.
    """
    last = grid.scale if to_the_end else grid.scale - 1
    duration, start = np.mgrid[: grid.durations, : grid.scale]
    proposed = start + duration + 1 <= last
    bounds = np.stack([start[proposed], start[proposed] + duration[proposed] + 1], axis=1)
    frames = grid.skip * (first + bounds.astype(np.float64))
    return proposed, frames - grid.skip / 2 if grid.exact else frames


def cut(features: Tensor, first: int, scale: int) -> Tensor:
    """Window (C, T) of a sequence of features (C, snippets), with zeros after its end."""
    part = features[:, first : first + scale]
    return functional.pad(part, (0, scale - part.shape[1]))


def rescale(features: VideoFeatures, scale: int) -> VideoFeatures:
    """The features of a whole video as `scale` snippets, linearly interpolated at the centres of new cells.

    How ActivityNet's videos of any length get features of one shape.
    """
    values = channels_first(features)[None]
    resized = functional.interpolate(values, size=scale, mode="linear", align_corners=False)[0].T
    stride = features.axis.stride * len(features.values) / scale
    axis = TimeAxis(features.axis.origin + stride / 2, stride, features.axis.window)
    return VideoFeatures(np.ascontiguousarray(resized.numpy()), axis, features.widths)


def to_frames(seconds: Floats, axis: TimeAxis, skip: int) -> Floats:
    """Times as frames: the centre of snippet i, ``axis.first + i * axis.stride``, is frame skip * i."""
    return (seconds - axis.first) / axis.stride * skip


def to_seconds(frames: Floats, axis: TimeAxis, skip: int) -> Floats:
    """The inverse of `to_frames`."""
    return axis.first + frames / skip * axis.stride
