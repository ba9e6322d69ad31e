"""Features at the snippets of another time axis.

Between the centres of its snippets a stream is taken to change linearly, and beyond its first and last centre
to stay as it is. A snippet of the new axis gets the mean of that curve over ``max(S - s, 0)`` seconds around
its centre, S and s being the new and the old stride. Therefore

- the same axis gives the same features, to rounding;
- a finer stream is averaged over the new cell: only snippets whose own cells overlap it count, those at its
  edges half. Two cells to one give their mean;
- a coarser stream is interpolated between its centres;
- what changes linearly in time (a ramp) comes back as the same line, whatever the strides and starts are.

Windows (what a snippet sees) enter through their centres, and through the time that a stream covers.
"""

import numpy as np
from numpy.typing import NDArray

from avfusion.data.features import TimeAxis, VideoFeatures

POINT = 1e-6  # of a stride: a span this short is a point


def resample(features: VideoFeatures, axis: TimeAxis, count: int) -> NDArray[np.float32]:
    """Features at the first `count` snippets of `axis`, float32 (count, C); see the module's text.

    Raises:
        ValueError: `features` has no snippet.
    """
    if not len(features.values):
        raise ValueError("features without snippets cannot be resampled")
    own = features.axis
    centres = (axis.centres(count) - own.first) / own.stride
    span = (axis.stride - own.stride) / own.stride
    values = features.values.astype(np.float64)
    if span < POINT:
        result = _at(values, centres)
    else:
        result = (_integral(values, centres + span / 2) - _integral(values, centres - span / 2)) / span
    return result.astype(np.float32)


def covered(features: VideoFeatures, seconds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of `seconds` lie in what the snippets see, or in their cells, bool (N,)."""
    axis, count = features.axis, len(features.values)
    reach = max(axis.window, axis.stride) / 2
    inside: NDArray[np.bool_] = (seconds >= axis.first - reach) & (
        seconds <= axis.first + axis.stride * (count - 1) + reach
    )
    return inside


def _at(values: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve at positions counted in snippets, (N, C)."""
    positions = positions.clip(0, len(values) - 1)
    before = np.floor(positions).astype(np.int64)
    after = np.minimum(before + 1, len(values) - 1)
    share = (positions - before)[:, None]
    result: NDArray[np.float64] = values[before] * (1 - share) + values[after] * share
    return result


def _integral(values: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of the curve from snippet 0 to positions counted in snippets, (N, C)."""
    whole = np.concatenate([np.zeros_like(values[:1]), np.cumsum((values[1:] + values[:-1]) / 2, axis=0)])
    inside = positions.clip(0, len(values) - 1)
    before = np.floor(inside).astype(np.int64)
    rest = (inside - before)[:, None] * (values[before] + _at(values, inside)) / 2
    beyond = (positions - inside)[:, None] * _at(values, inside)
    return whole[before] + rest + beyond
