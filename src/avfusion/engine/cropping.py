"""Training on windows of fixed length in place of whole videos, as MUSES was trained on its own dataset.

Long videos are mostly background; the published code cuts them into windows of 400 snippets, laid from the
beginning, and again from the end. Golden data pin where the windows lie and what is in them. Which instances
and proposals belong to a window is not published (it was decided when a file of proposals was made): here,
those that lie in it by half at least, cut at its ends.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from avfusion.data.features import VideoFeatures
from avfusion.detectors.base import Video

Floats = NDArray[np.float32]
Segments = NDArray[np.float64]
INSIDE = 0.5  # share of a segment that must lie in a window


def window_starts(snippets: int, size: int) -> list[int]:
    """First snippets of the windows of a video: from its beginning, the last of which may reach past its end,
    and then backwards from its end.

    Example:
        >>> window_starts(53, 20)
        [0, 20, 40, 33, 13]
    """
    if snippets <= size:
        return [0]
    return list(dict.fromkeys([*range(0, snippets, size), *range(snippets - size, 0, -size)]))


def cut(values: Floats, start: int, size: int) -> Floats:
    """Snippets `start` to ``start + size`` of (T, C) features; zeros past the end."""
    part = values[start : start + size]
    return np.pad(part, ((0, size - len(part)), (0, 0)))


def crop(video: Video, size: int) -> Iterator[Video]:
    """The windows of a video that have instances or proposals; a short video stays as it is."""
    count = len(video.features.values)
    if count <= size:
        yield video
        return
    axis = video.features.axis
    for start in window_starts(count, size):
        first = axis.first + start * axis.stride
        bounds = first - axis.stride / 2, first + (min(size, count - start) - 0.5) * axis.stride
        here = _inside(video.instances, bounds)
        features = VideoFeatures(
            cut(video.features.values, start, size), replace(axis, first=first), video.features.widths
        )
        part = Video(
            f"{video.name}[{start}:{start + size}]",
            features,
            np.clip(video.proposals[_inside(video.proposals, bounds)], *bounds),
            np.clip(video.instances[here], *bounds),
            video.classes[here],
        )
        if len(part.instances) or len(part.proposals):
            yield part


def _inside(segments: Segments, bounds: tuple[float, float]) -> NDArray[np.bool_]:
    """Which segments lie in the bounds by half at least."""
    start, end = segments[:, 0], segments[:, 1]
    shared = np.minimum(end, bounds[1]) - np.maximum(start, bounds[0])
    inside: NDArray[np.bool_] = (shared > 0) & (shared >= INSIDE * (end - start))
    return inside
