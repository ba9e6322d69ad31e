"""Temporal intersection over union."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def paired_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Temporal IoU of segments that broadcast against each other, shape (..., 2) of [start, end] each.

    0 where both are without length. The sum of the two lengths is formed before the intersection is taken
    off, as in the ActivityNet toolkit, so that a tIoU equal to the threshold falls on the same side.
    """
    low = np.maximum(a[..., 0], b[..., 0])
    high = np.minimum(a[..., 1], b[..., 1])
    inter = np.clip(high - low, 0.0, None)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def segment_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Temporal IoU of every segment of one set with every segment of another.

    Args:
        a: (N, 2) of [start, end], in any unit of time.
        b: (M, 2), in the same unit.

    Returns:
        float64 (N, M) in [0, 1]; 0 for touching segments and for two of no length.
    """
    first = np.asarray(a, dtype=np.float64).reshape(-1, 1, 2)
    second = np.asarray(b, dtype=np.float64).reshape(1, -1, 2)
    return paired_iou(first, second)
