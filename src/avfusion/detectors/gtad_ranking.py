"""From G-TAD's maps to ranked proposals: scores of candidates, and soft suppression of what overlaps.

Source: ``gtad_inference.py`` and ``gtad_postprocess.py`` of the G-TAD code; the suppression is BSN's.
golden/README.md lists its quirks as 27 and 28.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from avfusion.data.proposals import RankedProposals
from avfusion.ops import soft_nms1d
from avfusion.options import require

LEAST = float(np.nextafter(0, 1))  # score of a proposal: anything above 0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankingOptions:
    """How candidates become ranked proposals; the defaults are those of G-TAD on THUMOS14.

    Attributes:
        sigma: every overlap with a better proposal multiplies a score by exp(-tIoU ^ 2 / sigma); larger
            values suppress less.
        per_window: proposals that are kept of every window.
        per_video: proposals that are kept of the union of the windows.
        longest: proposals of so many snippets or more are dropped (published: 300 frames, 5 to the snippet);
            null drops none.
        return_last: also return the one that is left when all others are; false is as published.
    """

    sigma: float = 0.46
    per_window: int = 200
    per_video: int = 200
    longest: float | None = 60.0
    return_last: bool = False

    def __post_init__(self) -> None:
        require(self.sigma > 0, "sigma", f"must be above 0, not {self.sigma}")
        for name in ("per_window", "per_video"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        fits = self.longest is None or self.longest > 0
        require(fits, "longest", f"must be above 0 or null, not {self.longest}")


def soft_nms(
    segments: Floats, scores: Floats, sigma: float, count: int, return_last: bool = False
) -> tuple[NDArray[np.int64], Floats]:
    """Soft non-maximum suppression with a Gaussian: the best goes out, what overlaps it loses score.

    Args:
        segments: (N, 2) of [start, end], in any unit.
        scores: (N,); those that are not above 0 never go out. Of equal ones the earlier goes first.
        sigma: see `RankingOptions`.
        count: most segments to return.
        return_last: as published the last segment that is left is not returned, even if it is the only one.

    Returns:
        indices (M,) in the order in which they went out, and the scores with which they did, falling.

    Raises:
        ValueError: a score or a bound is NaN.
    """
    most = min(count, len(scores) if return_last else len(scores) - 1)
    if most < 1:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    bounds, score = (
        torch.from_numpy(np.ascontiguousarray(value, np.float64)) for value in (segments, scores)
    )
    found = soft_nms1d(bounds, score, sigma=sigma, min_score=LEAST, limit=most)
    return found.kept.numpy(), found.scores.numpy()


def suppress(segments: Floats, scores: Floats, options: RankingOptions, count: int) -> RankedProposals:
    """What `soft_nms` leaves of segments (N, 2) with scores (N,), `count` at most."""
    kept, decayed = soft_nms(segments, scores, options.sigma, count, options.return_last)
    return RankedProposals(segments[kept], decayed)


def candidate_scores(maps: NDArray[np.float32], proposed: NDArray[np.bool_]) -> Floats:
    """Scores (N,) of the candidates `proposed` (D, T) of a window: product of its two maps (2, D, T)."""
    regression, classification = maps[:, proposed].astype(np.float64)
    return classification * regression


def rank(
    segments: Sequence[Floats], scores: Sequence[Floats], snippet: float, options: RankingOptions
) -> RankedProposals:
    """Ranked proposals of a video: suppression in every window, then once more over the union of all.

    Args:
        segments: of every window (N, 2), in one unit of time.
        scores: of every window (N,).
        snippet: length of a snippet's stride in that unit.
        options: see `RankingOptions`.
    """
    parts = []
    for window, score in zip(segments, scores, strict=True):
        if options.longest is not None:
            length = window[:, 1] - window[:, 0]
            score = np.where(length >= options.longest * snippet * (1 - 1e-9), 0.0, score)
        parts.append(suppress(window, score, options, options.per_window))
    union = join(parts)
    if len(union) < 2:  # published: a single proposal is kept as it is
        return union
    return suppress(union.segments, union.scores, options, options.per_video)


def join(parts: Sequence[RankedProposals]) -> RankedProposals:
    """All proposals of several lists, best first; of equal ones those of the earlier list go first."""
    segments = np.concatenate([part.segments for part in parts] or [np.zeros((0, 2))])
    scores = np.concatenate([part.scores for part in parts] or [np.zeros(0)])
    order = np.argsort(-scores, kind="stable")
    return RankedProposals(segments[order], scores[order])
