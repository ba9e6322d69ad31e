"""Features of a proposal, and of what lies before and after it: the largest values of some snippets (P-GCN).

Source: ``I3D_Pooling`` of the P-GCN code (Zeng et al., ICCV 2019).
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from avfusion.data.features import VideoFeatures
from avfusion.detectors.sampling import TICKS_PER_SNIPPET, Ints
from avfusion.ops import roi_max_pool1d


def placed(features: VideoFeatures, ticks_from: str) -> tuple[VideoFeatures, int, int]:
    """Features with the origin that P-GCN counts ticks from, ticks of the video, ticks of a snippet's window.

    The published features (64 frames every 8) give ``8 (T - 1) + 64`` and 64.
    """
    axis = features.axis
    window = round(axis.window / axis.stride * TICKS_PER_SNIPPET)
    if ticks_from == "window":
        axis = replace(axis, first=axis.first - (axis.window - axis.stride) / 2)
    ticks = TICKS_PER_SNIPPET * (len(features.values) - 1) + window
    return replace(features, axis=axis), ticks, window


def part_rows(rois: Ints, snippets: int, window: int) -> Ints:
    """First and last row of the features before, inside and after proposals.

    The rows of [start, end] are those from ``start // 8`` to the first whose window reaches the end, but not
    the video's last; the row ``start // 8`` alone if these are fewer than two.

    Args:
        rois: (N, 4), start, end, extended start, extended end in ticks.
        snippets: rows T of the features.
        window: ticks that a snippet sees.

    Returns:
        (N, 3, 2), both ends inclusive.
    """
    start, end, low, high = rois.T
    begins, ends = np.stack([low, start, end], axis=1), np.stack([start, end, high], axis=1)
    first = np.clip(begins // TICKS_PER_SNIPPET, 0, snippets - 1)
    last = np.minimum(-((window - ends) // TICKS_PER_SNIPPET), snippets - 2)
    return np.stack([first, np.maximum(first, last)], axis=2)


def pool_parts(features: Tensor, rows: Tensor) -> Tensor:
    """Largest value of every channel in the rows of every part.

    Args:
        features: (C, T) of a video.
        rows: int64 (U, 3, 2) of `part_rows`.

    Returns:
        (U, 3, C), before, inside, after.
    """
    bounds = rows.flatten(0, 1)
    rois = torch.cat([torch.zeros_like(bounds[:, :1]), bounds], dim=1)
    pooled = roi_max_pool1d(features[None], rois, 1, 1.0, check_rois=False)
    return pooled.reshape(*rows.shape[:2], features.shape[0])
