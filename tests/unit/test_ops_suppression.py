"""soft_nms1d and vote1d: the rule one segment after the other, compiled against plain torch, bad input."""

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avfusion.ops import extension_status, iou1d, nms1d, soft_nms1d, vote1d
from avfusion.ops.nms import reference_nms1d
from avfusion.ops.soft_nms import reference_soft_nms1d, reference_vote1d

compiled = pytest.mark.skipif(not extension_status().loaded, reason=str(extension_status()))
OPS = torch.ops.avfusion
Method = Literal["linear", "gaussian"]


def example(count: int = 60, groups: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Segments, scores (some of them equal) and groups."""
    generator = torch.Generator().manual_seed(count)
    start = torch.rand(count, generator=generator, dtype=torch.float64) * 20
    length = torch.rand(count, generator=generator, dtype=torch.float64) * 6
    scores = torch.randint(1, 20, (count,), generator=generator) / 20
    segments = torch.stack([start, start + length], 1).to(dtype)
    return segments, scores.to(dtype), torch.randint(0, groups, (count,), generator=generator)


def plain_soft_nms(
    segments: Tensor, scores: Tensor, method: str, threshold: float, sigma: float, least: float
) -> tuple[list[int], list[float]]:
    """The rule for one group."""
    overlap, left = iou1d(segments, segments), dict(enumerate(scores.tolist()))
    kept: list[int] = []
    values: list[float] = []
    while left := {i: score for i, score in left.items() if score >= least}:
        best = max(left, key=lambda i: (left[i], -i))
        kept.append(best)
        values.append(left.pop(best))
        for i in left:
            iou = float(overlap[best, i])
            linear = 1 - iou if iou >= threshold else 1.0
            left[i] *= linear if method == "linear" else math.exp(-(iou**2) / sigma)
    return kept, values


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("count", [60, 900])
def test_the_best_decays_what_it_overlaps(method: Method, count: int) -> None:
    segments, scores, groups = example(count)
    kept, decayed, moved = soft_nms1d(segments, scores, method, groups=groups, min_score=0.05)
    assert torch.equal(moved, segments[kept]) and (decayed.diff() <= 0).all()
    for group in range(3):
        members = (groups == group).nonzero()[:, 0]
        wanted, values = plain_soft_nms(segments[members], scores[members], method, 0.1, 0.5, 0.05)
        mine = groups[kept] == group
        assert kept[mine].tolist() == members[wanted].tolist()
        torch.testing.assert_close(decayed[mine], torch.tensor(values, dtype=torch.float64))


@compiled
@settings(deadline=None, max_examples=100)
@given(st.data())
def test_compiled_equals_the_reference(data: st.DataObject) -> None:
    """Times and scores in eighths, in which both compute the same bits with the linear rule."""
    count = data.draw(st.integers(0, 20))
    start = torch.tensor(data.draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))).double()
    length = torch.tensor(data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))).double()
    scores = torch.tensor(data.draw(st.lists(st.integers(-1, 8), min_size=count, max_size=count))).double()
    groups = torch.tensor(data.draw(st.lists(st.integers(-1, 1), min_size=count, max_size=count))).long()
    segments, limit = torch.stack([start, start + length], 1), data.draw(st.integers(0, 3))
    arguments = (segments, scores / 8, groups, "linear", 0.1, 0.5, 0.125, limit)
    got, wanted = OPS.soft_nms1d(*arguments), reference_soft_nms1d(*arguments)
    assert torch.equal(got[0], wanted[0])
    torch.testing.assert_close(got[1], wanted[1])
    votes = (segments, groups, segments, scores.abs() / 8, groups, 0.3)
    torch.testing.assert_close(OPS.vote1d(*votes), reference_vote1d(*votes))


def crowd(kind: str, count: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """So many segments in two groups that what overlaps is looked for along time."""
    generator = torch.Generator().manual_seed(seed)
    start, length, score = torch.rand(3, count, generator=generator, dtype=torch.float64)
    start, length = start * 60, length**3 * 30
    if kind == "grid":
        start, length, score = start.floor(), length.floor(), (score * 8).floor() / 8
    elif kind == "far":  # in float32 the next time is 1/16 away
        start += 1e6
    elif kind == "one place":
        start, length = start * 0 + 3, length * (score > 0.5)
    elif kind == "malformed":
        length -= 2
    segments = torch.stack([start, start + length], 1)
    if kind == "infinite":
        segments[1, 0], segments[2, 1], segments[3] = -math.inf, math.inf, torch.tensor([-math.inf, math.inf])
    groups = torch.randint(0, 2, (count,), generator=generator) * 2**40
    return segments.to(dtype), (score - 0.2).to(dtype), groups


@compiled
@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["plain", "grid", "far", "one place", "malformed", "infinite"]),
    st.integers(30, 300),
    st.integers(0, 10**6),
    st.sampled_from([torch.float64, torch.float32]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_a_crowd_is_suppressed_as_in_plain_torch(
    kind: str, count: int, seed: int, dtype: torch.dtype, threshold: float
) -> None:
    """To the bit, whatever the kernels leave out because it cannot overlap."""
    segments, scores, groups = crowd(kind, count, seed, dtype)
    kept = OPS.nms1d(segments, scores, groups, threshold)
    assert torch.equal(kept, reference_nms1d(segments, scores, groups, threshold))
    for least, limit in ((0.05, 0), (-0.1, 0), (-math.inf, 9)):  # a decay raises what is negative
        arguments = (segments, scores, groups, "linear", threshold, 0.5, least, limit)
        got, wanted = OPS.soft_nms1d(*arguments), reference_soft_nms1d(*arguments)
        assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])


@compiled
def test_whole_scores_are_told_apart_where_float64_does_not() -> None:
    scores = torch.tensor([2**60, 2**60 + 1])
    segments = torch.tensor([[0.0, 1.0], [5.0, 6.0]])
    assert nms1d(segments, scores, 0.5).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precisions_keep_their_type(dtype: torch.dtype) -> None:
    segments, scores, groups = example(dtype=dtype)
    found = soft_nms1d(segments, scores, groups=groups, voting_threshold=0.5)
    assert found.scores.dtype == dtype and found.segments.dtype == dtype
    assert nms1d(segments, scores, 0.4, groups).tolist() == (
        reference_nms1d(segments, scores, groups, 0.4).tolist()
    )


def test_limit_is_per_group_and_a_low_score_leaves() -> None:
    segments = torch.tensor([[0.0, 1.0], [5.0, 6.0], [9.0, 10.0], [0.0, 1.0]])
    scores, groups = torch.tensor([0.5, 0.9, 0.7, 0.01]), torch.tensor([0, 0, 0, 1])
    assert soft_nms1d(segments, scores, groups=groups, limit=2, min_score=0.005).kept.tolist() == [1, 2, 3]
    assert soft_nms1d(segments, scores, groups=groups, min_score=0.6).kept.tolist() == [1, 2]


def test_votes_are_weighted_by_score_and_overlap() -> None:
    segments = torch.tensor([[0.0, 4.0], [0.0, 2.0], [1.0, 4.0], [50.0, 51.0]])
    scores = torch.tensor([0.8, 0.6, 0.4, 0.1])
    moved = vote1d(segments[:1], segments, scores, 0.5)
    weights = torch.tensor([0.8, 0.6 * 0.5, 0.4 * 0.75])
    torch.testing.assert_close(moved[0], (weights[:, None] * segments[:3]).sum(0) / weights.sum())
    stays = torch.tensor([[20.0, 21.0]])
    assert torch.equal(vote1d(stays, segments, scores, 0.5), stays)
    found = soft_nms1d(segments, scores, voting_threshold=0.5)
    assert torch.equal(found.segments[0], moved[0])
    alone = vote1d(segments[:1], segments, scores, 0.5, torch.tensor([7]), torch.tensor([7, 8, 8, 8]))
    torch.testing.assert_close(alone, segments[:1])


def test_nothing_in_nothing_out() -> None:
    none = torch.zeros(0, 2)
    found = soft_nms1d(none, torch.zeros(0), voting_threshold=0.5)
    assert [tuple(part.shape) for part in found] == [(0,), (0,), (0, 2)]
    assert nms1d(none, torch.zeros(0), 0.5).shape == (0,)
    assert vote1d(torch.ones(1, 2), none, torch.zeros(0), 0.5).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"segments": torch.ones(3, 3)}, "segments"),
        ({"segments": torch.full((3, 2), torch.nan)}, "segments"),
        ({"scores": torch.ones(2)}, "scores"),
        ({"scores": torch.tensor([1.0, 2.0, torch.nan])}, "scores"),
        ({"scores": torch.ones(3, dtype=torch.bool)}, "scores"),
        ({"groups": torch.ones(3)}, "groups"),
        ({"groups": torch.ones(3, device="meta", dtype=torch.int64)}, "groups"),
        ({"method": "hard"}, "method"),
        ({"iou_threshold": -0.1}, "iou_threshold"),
        ({"sigma": 0.0}, "sigma"),
        ({"min_score": float("nan")}, "min_score"),
        ({"limit": 0}, "limit"),
        ({"voting_threshold": 0.0}, "threshold"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], named: str) -> None:
    good: dict[str, Any] = {"segments": torch.ones(3, 2), "scores": torch.ones(3)}
    with pytest.raises(ValueError, match=named):
        soft_nms1d(**(good | changes))


def test_bad_votes_are_named() -> None:
    segments, scores = torch.ones(3, 2), torch.ones(3)
    with pytest.raises(ValueError, match="voters must be floating point"):
        vote1d(segments, torch.ones(3), scores, 0.5)
    with pytest.raises(ValueError, match=r"voters must be torch.float32"):
        vote1d(segments, segments.double(), scores, 0.5)
    with pytest.raises(ValueError, match="groups and voter_groups"):
        vote1d(segments, segments, scores, 0.5, torch.zeros(3).long())
    with pytest.raises(ValueError, match="voters must not be NaN"):
        vote1d(segments, segments * torch.nan, scores, 0.5)


def test_nan_is_refused_by_the_references_too() -> None:
    segments, scores, groups = torch.ones(3, 2), torch.full((3,), torch.nan), torch.zeros(3).long()
    for call in (
        lambda: reference_nms1d(segments, scores, groups, 0.5),
        lambda: nms1d(segments, scores, 0.5),
        lambda: reference_soft_nms1d(segments, scores, groups, "linear", 0.1, 0.5, 0.0, 0),
    ):
        with pytest.raises(ValueError, match="scores must not be NaN"):
            call()


def test_opcheck() -> None:
    segments, scores, groups = example()
    torch.library.opcheck(OPS.soft_nms1d, (segments, scores, groups, "gaussian", 0.1, 0.5, 0.01, 5))
    torch.library.opcheck(OPS.vote1d, (segments[:9], groups[:9], segments, scores, groups, 0.3))
