"""Features at the snippets of another time axis.

Between the centres of its snippets a stream is taken to change linearly, and beyond its first and last centre
to stay as it is. A snippet of the new axis, whose cell is S seconds wide, gets the mean of that curve at the
middles of n equal parts of its cell; n = ceil(S / s), s being the old stride. Therefore

- the same axis gives the same features;
- a finer stream is averaged: no snippet whose centre is in the cell is passed over, and n snippets that fill
  the cell give their mean;
- a coarser stream is interpolated between its centres (n = 1);
- what changes linearly in time (a ramp) comes back as the same line, whatever the strides and starts are.

Windows (what a snippet sees) enter through their centres, and through the time that a stream covers.
"""

import math

import numpy as np
from numpy.typing import NDArray

from avfusion.data.features import TimeAxis, VideoFeatures

ROUNDING = 1e-6  # of a part: strides that differ by less are the same


def resample(features: VideoFeatures, axis: TimeAxis, count: int) -> NDArray[np.float32]:
    """Features at the first `count` snippets of `axis`, float32 (count, C); see the module's text.

    Raises:
        ValueError: `features` has no snippet.
    """
    if not len(features.values):
        raise ValueError("features without snippets cannot be resampled")
    own = features.axis
    parts = max(1, math.ceil(axis.stride / own.stride - ROUNDING))
    middles = (np.arange(parts) - (parts - 1) / 2) * axis.stride / parts
    seconds = axis.centres(count)[:, None] + middles
    samples = _interpolated(features.values, (seconds.ravel() - own.first) / own.stride)
    mean: NDArray[np.float64] = samples.reshape(count, parts, -1).mean(axis=1)
    return mean.astype(np.float32)


def covered(features: VideoFeatures, seconds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of `seconds` lie in what the snippets see, or in their cells, bool (N,)."""
    axis, count = features.axis, len(features.values)
    reach = max(axis.window, axis.stride) / 2
    inside: NDArray[np.bool_] = (seconds >= axis.first - reach) & (
        seconds <= axis.first + axis.stride * (count - 1) + reach
    )
    return inside


def _interpolated(values: NDArray[np.float32], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve at positions counted in snippets, (N, C)."""
    positions = positions.clip(0, len(values) - 1)
    before = np.floor(positions).astype(np.int64)
    after = np.minimum(before + 1, len(values) - 1)
    share = (positions - before)[:, None]
    result: NDArray[np.float64] = values[before] * (1 - share) + values[after] * share
    return result
