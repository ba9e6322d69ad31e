"""Resampling with resampy's kaiser_best filter, the one of the published VGGish ports, as a matrix product.

Band-limited interpolation (Smith, 1984): an output sample is the sum of the input samples around it, weighted
by a windowed sinc that is tabled and read by linear interpolation. Between two common rates there are few
distinct sets of weights, a set per output sample from one coincidence of both grids to the next: written as a
matrix, a block of output is one product, far faster than the loop and equal to it but for rounding.
"""

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

FILTER = "kaiser_best"
MAX_PHASES = 640  # of uncommon rates that share no coincidences; those take the loop
BLOCK = 160  # output samples per product, at least


def kaiser_best(samples: NDArray[np.floating], rate: int, target: int) -> NDArray[np.float64]:
    """Resample (N,) samples; N samples become N * target // rate. Outside of them is silence."""
    common, count = math.gcd(rate, target), len(samples) * target // rate
    if not count:
        return np.zeros(0)
    if target // common > MAX_PHASES:
        import resampy

        return np.asarray(resampy.resample(samples, rate, target, filter=FILTER), dtype=np.float64)
    weights, reach, step = _weights(rate // common, target // common)
    blocks = -(-count // weights.shape[1])
    padded = np.zeros((blocks - 1) * step + len(weights))
    inside = samples[: max(0, len(padded) - reach)]
    padded[reach : reach + len(inside)] = inside
    windows = sliding_window_view(padded, len(weights))[::step]
    return (windows @ weights).reshape(-1)[:count]


def _filter() -> tuple[NDArray[np.float64], int]:
    """Right half of the filter, and its samples between zero crossings: resampy's own file.

    Read without importing resampy, which compiles for a moment and loads numba, in every process that reads.
    """
    spec = find_spec("resampy")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("resampy is not installed: its filter is that of VGGish")
    with np.load(Path(spec.origin).parent / "data" / f"{FILTER}.npz") as file:
        return np.asarray(file["half_window"], dtype=np.float64), int(file["precision"])


@cache
def _weights(unit_in: int, unit_out: int) -> tuple[NDArray[np.float64], int, int]:
    """Weights (inputs, outputs) of a block, inputs before its first output, and inputs to the next block.

    Args:
        unit_in: input samples from one coincidence of the grids to the next.
        unit_out: output samples likewise.
    """
    table, precision = _filter()
    scale = min(1.0, unit_out / unit_in)
    table = table * scale
    slopes = np.diff(table, append=table[-1])
    step = int(scale * precision)  # table entries from one input sample to the next, rounded down as there
    taps = len(table) // step + 1
    units = -(-BLOCK // unit_out)
    reach = taps + 1
    weights = np.zeros((units * unit_in + 2 * reach, units * unit_out))
    for output in range(units * unit_out):
        nearest, rest = divmod(output * unit_in, unit_out)
        fraction = scale * rest / unit_out
        for side, distance in ((-1, fraction), (1, scale - fraction)):
            offset = int(distance * precision)
            entries = offset + step * np.arange((len(table) - offset) // step)
            values = table[entries] + (distance * precision - offset) * slopes[entries]
            first = reach + nearest + (side > 0)
            weights[first + side * np.arange(len(entries)), output] = values
    return weights, reach, units * unit_in
