"""Whether one experiment really does better than another: a paired bootstrap over the videos.

The test videos are a sample of all videos that might have been filmed. Drawing as many of them again, with
replacement, and evaluating both experiments on the same draw shows how far the difference of their mAP
depends on which videos were there (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
Detections are matched once: a draw only changes how often each video counts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avfusion.evaluation.mean_ap import Matching

DRAWS = 1000
INTERVAL = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Difference of two experiments' mAP (mean over the thresholds), in [-1, 1].

    Attributes:
        mean: on the videos as they are.
        low: lower end of the interval that holds 95% of the draws.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    one: Matching, other: Matching, videos: int, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """How much better `one` is than `other`, and how sure that is.

    Args:
        one: detections matched with the annotations of `videos` videos (`avfusion.evaluation.mean_ap.match`).
        other: those of the other experiment, with the same annotations and thresholds.
        videos: number of annotated videos.
        draws: how often the videos are drawn again.
        seed: of the draws.

    Raises:
        ValueError: the two were matched at different thresholds or with other instances.
    """
    if one.tiou != other.tiou or len(one.truth.label) != len(other.truth.label):
        raise ValueError("experiments can be compared at the same thresholds and instances only")
    chosen = np.random.RandomState(seed).randint(videos, size=(draws, videos))
    counts = np.stack([np.bincount(draw, minlength=videos) for draw in chosen])
    everything = np.concatenate([np.ones((1, videos), dtype=counts.dtype), counts])
    difference = weighted_map(one, everything) - weighted_map(other, everything)
    edge = (1 - INTERVAL) / 2
    low, high = np.nanquantile(difference[1:], [edge, 1 - edge])
    return Difference(float(difference[0]), float(low), float(high))


def weighted_map(matching: Matching, counts: NDArray[np.int64]) -> Floats:
    """mAP, mean over the thresholds, if every video counted as often as `counts` says.

    Args:
        matching: N detections and the instances of V videos.
        counts: (S, V); videos that are not annotated, whose detections are false positives, count once.

    Returns:
        float64 (S,). A class without an instance in a draw is no part of its mean; NaN if all are.
    """
    labels = np.unique(matching.truth.label)
    unknown = int(matching.ranked.video.max(initial=-1)) + 1 - counts.shape[1]
    counts = np.pad(counts, ((0, 0), (0, max(unknown, 0))), constant_values=1)
    found = matching.of_classes(int(max(labels.max(), matching.ranked.label.max(initial=0))) + 1)
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    for label in labels:
        instances = counts[:, matching.truth.video[matching.truth.label == label]].sum(axis=1)
        weights = counts[:, matching.ranked.video[found[label]]]
        area = np.mean([_area(weights, hits) for hits in matching.hits[:, found[label]]], axis=0)
        total += area / np.maximum(instances, 1)
        classes += instances > 0
    return np.divide(total, classes, out=np.full(len(counts), np.nan), where=classes > 0)


def _area(weights: NDArray[np.int64], hits: NDArray[np.bool_]) -> Floats:
    """Area under the interpolated curve times the number of instances, for weights (S, N) of N detections."""
    found = weights * hits
    total = weights.cumsum(axis=1)
    precision = np.divide(found.cumsum(axis=1), total, out=np.zeros(total.shape), where=total > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: Floats = (envelope * found).sum(axis=1)
    return area
