"""Soft temporal non-maximum suppression: overlapped segments lose score instead of going at once."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from avfusion.ops._extension import register
from avfusion.ops.iou import refuse_nan
from avfusion.ops.nms import check_segments

SCHEMA = (
    "soft_nms1d(Tensor segments, Tensor scores, Tensor groups, str method, float threshold, float sigma,"
    " float min_score, int limit) -> (Tensor kept, Tensor decayed)"
)
VOTE = (
    "vote1d(Tensor segments, Tensor groups, Tensor voters, Tensor scores, Tensor voter_groups,"
    " float threshold) -> Tensor"
)


class SoftNms(NamedTuple):
    """What is left after soft suppression, by descending score over all groups.

    Attributes:
        kept: int64 (M,), indices into the segments that came in.
        scores: (M,), their scores after the decay.
        segments: (M, 2), as they were or, with voting, as their neighbours moved them.
    """

    kept: Tensor
    scores: Tensor
    segments: Tensor


def soft_nms1d(
    segments: Tensor,
    scores: Tensor,
    method: Literal["linear", "gaussian"] = "gaussian",
    *,
    groups: Tensor | None = None,
    iou_threshold: float = 0.1,
    sigma: float = 0.5,
    min_score: float = 0.001,
    limit: int | None = None,
    voting_threshold: float | None = None,
) -> SoftNms:
    """Take the best segment of every group, let it decay what it overlaps, and again with what is left.

    The decay multiplies a score by ``1 - tIoU`` where the tIoU is `iou_threshold` or more ("linear"), or by
    ``exp(-tIoU^2 / sigma)`` ("gaussian"). A score under `min_score` leaves. Of equal scores the earlier
    segment goes first.

    Args:
        segments: floating point (N, 2) of [start, end].
        scores: (N,), larger is better.
        method: how overlap decays a score.
        groups: integers (N,); segments of different groups (videos, classes) do not meet. None: one group.
        iou_threshold: least tIoU that decays, in [0, 1]; for "linear" only.
        sigma: width of the Gaussian; for "gaussian" only.
        min_score: least score that stays.
        limit: most segments to keep per group; None: all.
        voting_threshold: None, or the least tIoU at which the segments of the group, with the scores that
            came in, vote on the place of a kept one; see `vote1d`.

    Raises:
        ValueError: shapes that do not fit, NaN, or an option out of its range.

    Source: Bodla et al. (ICCV 2017) as ``batched_nms`` of the ActionFormer code does it. Two things differ:
    lengths are not enlarged by 1e-6, and a group whose best score is under `min_score` gives nothing (there
    its best segment).
    """
    groups = check_segments(segments, scores, groups)
    if method not in ("linear", "gaussian"):
        raise ValueError(f"method must be 'linear' or 'gaussian', not {method!r}")
    if not 0 <= iou_threshold <= 1 or not sigma > 0 or min_score != min_score:
        raise ValueError(
            "iou_threshold must be in [0, 1], sigma positive and min_score a number, "
            f"not {iou_threshold}, {sigma} and {min_score}"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be positive or None, not {limit}")
    kept, decayed = torch.ops.avfusion.soft_nms1d(
        segments, scores, groups, method, iou_threshold, sigma, min_score, limit or 0
    )
    moved = segments.index_select(0, kept)
    if voting_threshold is not None:
        moved = vote1d(moved, segments, scores, voting_threshold, groups[kept], groups)
    return SoftNms(kept, decayed, moved)


def vote1d(
    segments: Tensor,
    voters: Tensor,
    scores: Tensor,
    threshold: float,
    groups: Tensor | None = None,
    voter_groups: Tensor | None = None,
) -> Tensor:
    """Move segments to the mean of those that overlap them, weighted by score times tIoU.

    Args:
        segments: floating point (M, 2) of [start, end], for example what non-maximum suppression kept.
        voters: (N, 2), for example all that came in; `segments` themselves vote only if they are in it.
        scores: (N,) of the voters.
        threshold: least tIoU of a voter, in (0, 1].
        groups: integers (M,): only voters of the same group count. None: one group.
        voter_groups: integers (N,).

    Returns:
        (M, 2); a segment without voters (or whose voters all score 0) stays where it is. The published code
        gives NaN there.

    Raises:
        ValueError: shapes that do not fit, NaN, groups of one side only, or a threshold outside of (0, 1].
    """
    if (groups is None) != (voter_groups is None):
        raise ValueError("groups and voter_groups must both be given or neither")
    voter_groups = check_segments(voters, scores, voter_groups, "voters")
    groups = check_segments(segments, segments[:, :1].flatten(), groups)
    if segments.dtype != voters.dtype or segments.device != voters.device:
        raise ValueError(
            f"voters must be {segments.dtype} on {segments.device}, not {voters.dtype} on {voters.device}"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], not {threshold}")
    moved: Tensor = torch.ops.avfusion.vote1d(segments, groups, voters, scores, voter_groups, threshold)
    return moved


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """TIoU of pairs of segments (broadcast); 0 where neither has a length."""
    shared = torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])
    shared = shared.clamp(min=0)
    whole = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - shared
    return torch.where(whole > 0, shared / whole, 0)


def reference_soft_nms1d(
    segments: Tensor,
    scores: Tensor,
    groups: Tensor,
    method: str,
    threshold: float,
    sigma: float,
    min_score: float,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """`soft_nms1d` in plain torch: every round takes the best that is left of every group."""
    refuse_nan(segments=segments, scores=scores)
    wide = _wide(segments)
    left = _wide(scores).to(wide.dtype).clone()
    names, group = torch.unique(groups, return_inverse=True)
    live = (left >= min_score).nonzero()[:, 0]  # ascending, so that of equal scores the earlier is found
    kept, decayed, rounds = [live[:0]], [left[:0]], 0
    while len(live) and (not limit or rounds < limit):
        best = left.new_full((len(names),), -torch.inf)
        best.scatter_reduce_(0, group[live], left[live], "amax")
        candidates = live[left[live] == best[group[live]]]
        leaders = live.new_full((len(names),), len(groups))
        leaders.scatter_reduce_(0, group[candidates], candidates, "amin")
        found = leaders[leaders < len(groups)]
        kept.append(found)
        decayed.append(left[found])
        live = live[live != leaders[group[live]]]
        overlap = _overlap(wide[leaders[group[live]]], wide[live])
        if method == "linear":
            factor = torch.where(overlap >= threshold, 1 - overlap, 1)
        else:
            factor = torch.exp(-(overlap * overlap) / sigma)
        left[live] *= factor
        live = live[left[live] >= min_score]
        rounds += 1
    indices, values = torch.cat(kept), torch.cat(decayed)
    by_group = torch.argsort(groups[indices], stable=True)
    order = by_group[torch.argsort(values[by_group], stable=True, descending=True)]
    return indices[order], values[order].to(scores.dtype)


def reference_vote1d(
    segments: Tensor, groups: Tensor, voters: Tensor, scores: Tensor, voter_groups: Tensor, threshold: float
) -> Tensor:
    """`vote1d` in plain torch, group after group."""
    refuse_nan(segments=segments, voters=voters, scores=scores)
    moved = _wide(segments).clone()
    wide, weights = _wide(voters), _wide(scores).to(moved.dtype)
    for name in torch.unique(groups):
        mine, theirs = (groups == name).nonzero()[:, 0], (voter_groups == name).nonzero()[:, 0]
        overlap = _overlap(moved[mine, None], wide[None, theirs])
        vote = torch.where(overlap >= threshold, overlap * weights[theirs], 0)
        total = vote.sum(1, keepdim=True)
        mean = (vote @ wide[theirs]) / total
        moved[mine] = torch.where(total > 0, mean, moved[mine])
    return moved.to(segments.dtype)


def _fake(
    segments: Tensor,
    scores: Tensor,
    groups: Tensor,
    method: str,
    threshold: float,
    sigma: float,
    min_score: float,
    limit: int,
) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return scores.new_empty(count, dtype=torch.int64), scores.new_empty(count)


def _fake_vote(
    segments: Tensor, groups: Tensor, voters: Tensor, scores: Tensor, voter_groups: Tensor, threshold: float
) -> Tensor:
    return torch.empty_like(segments, memory_format=torch.contiguous_format)


register(SCHEMA, reference_soft_nms1d, _fake)
register(VOTE, reference_vote1d, _fake_vote)
