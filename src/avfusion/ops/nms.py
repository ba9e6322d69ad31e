"""Temporal non-maximum suppression."""

import torch
from torch import Tensor

from avfusion.ops._extension import register
from avfusion.ops.iou import refuse_nan

SCHEMA = "nms1d(Tensor segments, Tensor scores, Tensor groups, float threshold) -> Tensor"


def nms1d(segments: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    """Indices of the segments that no better segment of their group overlaps by more than `threshold`.

    A segment whose tIoU with a kept one *equals* the threshold stays (as in ``temporal_nms`` of the SSN and
    MUSES code). Of equal scores the earlier segment goes first; in the published code their order is open.

    Args:
        segments: floating point (N, 2) of [start, end].
        scores: (N,), larger is better.
        threshold: largest tIoU that is left, in [0, 1].
        groups: integers (N,); segments of different groups (videos, classes) do not meet. None: one group.

    Returns:
        int64 (M,): indices by descending score, over all groups.

    Raises:
        ValueError: shapes that do not fit, NaN, or a threshold outside of [0, 1].
    """
    groups = check_segments(segments, scores, groups)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], not {threshold}")
    kept: Tensor = torch.ops.avfusion.nms1d(segments, scores, groups, threshold)
    return kept


def check_segments(segments: Tensor, scores: Tensor, groups: Tensor | None, name: str = "segments") -> Tensor:
    """Check what suppression is given, and return the groups as int64 (all in one if there are none).

    Values are looked at by the operators: NaN among segments or scores is a ValueError as well.

    Raises:
        ValueError: shapes, types or devices that do not fit; the message names the argument.
    """
    if segments.ndim != 2 or segments.shape[1] != 2 or not segments.is_floating_point():
        raise ValueError(
            f"{name} must be floating point (N, 2), not {segments.dtype} {tuple(segments.shape)}"
        )
    if groups is None:
        groups = torch.zeros(segments.shape[0], dtype=torch.int64, device=segments.device)
    for column_name, column in (("scores", scores), ("groups", groups)):
        if column.shape != segments.shape[:1] or column.device != segments.device:
            raise ValueError(
                f"{column_name} must be ({segments.shape[0]},) on {segments.device}, "
                f"not {tuple(column.shape)} on {column.device}"
            )
    if scores.is_complex() or scores.dtype == torch.bool:
        raise ValueError(f"scores must be real numbers, not {scores.dtype}")
    if groups.is_floating_point() or groups.is_complex():
        raise ValueError(f"groups must be integers, not {groups.dtype}")
    return groups.long()


def reference_nms1d(segments: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """`nms1d` in plain torch: every round keeps the best that is left of every group."""
    refuse_nan(segments=segments, scores=scores)
    segments = segments if segments.dtype == torch.float64 else segments.float()
    by_score = torch.argsort(scores, stable=True, descending=True)
    order = by_score[torch.argsort(groups[by_score], stable=True)]
    kept = torch.zeros(len(segments), dtype=torch.bool, device=segments.device)
    while len(order):
        group = groups[order]
        leads = torch.ones_like(order, dtype=torch.bool)
        leads[1:] = group[1:] != group[:-1]
        leaders = order[leads]
        kept[leaders] = True
        best, other = segments[leaders[leads.cumsum(0) - 1]], segments[order]
        shared = torch.minimum(best[:, 1], other[:, 1]) - torch.maximum(best[:, 0], other[:, 0])
        whole = (best[:, 1] - best[:, 0]) + (other[:, 1] - other[:, 0]) - shared
        order = order[~(leads | ((shared / whole).double() > threshold))]
    return by_score[kept[by_score]]


def _fake(segments: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return segments.new_empty(count, dtype=torch.int64)


register(SCHEMA, reference_nms1d, _fake)
