"""Average recall of proposals over the average number of proposals per video (AR@AN), class-agnostic.

After the ActivityNet toolkit's ``eval_proposal``: every video gives its best proposals in the same share of
what it has, so that long videos may use more of them, and the curve is taken at 100 equal steps of that
share. An instance counts as recalled if any retrieved proposal reaches the threshold; one proposal may
recall several.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avfusion.data.annotations import Annotations
from avfusion.data.detections import Detections
from avfusion.data.proposals import RankedProposals, Segments
from avfusion.errors import InputError
from avfusion.evaluation.segments import segment_iou

STEPS = 100
ACTIVITYNET_TIOU = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))


@dataclass(frozen=True, eq=False)
class AverageRecall:
    """Recall by tIoU and average number of proposals.

    Attributes:
        tiou: the T thresholds.
        proposals: float64 (100,), average number of proposals per video at each step.
        recall: float64 (T, 100), share of the instances recalled.
    """

    tiou: tuple[float, ...]
    proposals: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def average(self) -> NDArray[np.float64]:
        """Mean of `recall` over the thresholds, float64 (100,)."""
        return self.recall.mean(axis=0)

    @property
    def area(self) -> float:
        """Area under the curve of `average` over `proposals` as a share of the widest possible, in [0, 1]."""
        heights = (self.average[1:] + self.average[:-1]) / 2
        return float((heights * np.diff(self.proposals)).sum() / self.proposals[-1])

    def at(self, count: float) -> float:
        """Average recall with `count` proposals per video on average (AR@AN), between steps by a line.

        With more than there are, what all of them recall.
        """
        return float(np.interp(count, self.proposals, self.average))

    def to_json(self) -> dict[str, Any]:
        """As a JSON value: tiou, proposals (average number per video), recall (mean over tIoU), area."""
        return {
            "tiou": list(self.tiou),
            "proposals": self.proposals.tolist(),
            "recall": self.average.tolist(),
            "area": self.area,
        }


def as_detections(proposals: Mapping[str, RankedProposals]) -> Detections:
    """Ranked proposals as detections of one class, the form in which `average_recall` takes them."""
    counts = [len(value) for value in proposals.values()]
    segments = np.concatenate([value.segments for value in proposals.values()] or [np.zeros((0, 2))])
    scores = np.concatenate([value.scores for value in proposals.values()] or [np.zeros(0)])
    video = np.repeat(np.arange(len(counts)), counts)
    label = np.zeros(len(scores), dtype=np.int64)
    start, end = segments.T
    return Detections(tuple(proposals), ("proposal",), video, label, start, end, scores, "proposals")


def in_random_order(proposals: Mapping[str, Segments], seed: int) -> dict[str, RankedProposals]:
    """Proposals that nobody has ranked (windows, a list), ranked at random: any number may be taken."""
    rng = np.random.RandomState(seed)
    return {
        video: RankedProposals(segments[rng.permutation(len(segments))], -np.arange(len(segments)) / 1.0)
        for video, segments in proposals.items()
    }


def average_recall(
    proposals: Detections,
    annotations: Annotations,
    tiou: Sequence[float] = ACTIVITYNET_TIOU,
    max_average: int = 100,
) -> AverageRecall:
    """Average recall at up to `max_average` proposals per video on average.

    Args:
        proposals: scored segments; labels are ignored, equal scores rank in the order of the rows. Those of
            videos without instances count in the average number only.
        annotations: usually of one subset; videos without instances are no part of it.
        tiou: thresholds in (0, 1].
        max_average: average number of proposals per video at the end of the curve.

    Raises:
        InputError: there is no instance to find, or no proposal.
    """
    videos = {name: value for name, value in annotations.videos.items() if value.instances}
    if not videos:
        raise InputError(annotations.source, "there is no instance to find in it", "annotations")
    if not len(proposals):
        raise InputError(proposals.source, "holds no proposals")
    thresholds = np.asarray(tiou, dtype=np.float64)
    rows_of = _rows_by_video(proposals)
    share = max_average * float(len(videos)) / len(proposals)
    # rank of the first proposal that reaches the threshold, per instance; and how many its video gives
    first: list[NDArray[np.int64]] = []
    given: list[int] = []
    for name, value in videos.items():
        rows = rows_of.get(name, np.zeros(0, dtype=np.int64))
        rows = rows[: min(int(rows.size * share), rows.size)]
        segments = np.stack([proposals.start[rows], proposals.end[rows]], axis=1)
        iou = segment_iou([(i.start, i.end) for i in value.instances], segments)
        reached = iou[None] >= thresholds[:, None, None]
        first.append(np.where(reached.any(axis=2), _first_true(reached), np.iinfo(np.int64).max))
        given.append(rows.size)
    total = sum(given)
    if not total:
        raise InputError(proposals.source, "holds no proposal in a video that has instances")
    steps = np.arange(1, STEPS + 1) / STEPS * (max_average * float(len(videos)) / total)
    hits = np.zeros((thresholds.size, STEPS))
    for count, rank in zip(given, first, strict=True):
        retrieved = np.minimum((count * steps).astype(np.int64), count)
        hits += (rank[:, :, None] < retrieved).sum(axis=1)
    instances = sum(len(value.instances) for value in videos.values())
    return AverageRecall(
        tuple(map(float, thresholds)), steps * (float(total) / len(videos)), hits / instances
    )


def _first_true(reached: NDArray[np.bool_]) -> NDArray[np.int64]:
    return reached.argmax(axis=2) if reached.shape[2] else np.zeros(reached.shape[:2], dtype=np.int64)


def _rows_by_video(proposals: Detections) -> dict[str, NDArray[np.int64]]:
    """Rows of every video in order of falling score."""
    order = np.argsort(-proposals.score, kind="stable")
    order = order[np.argsort(proposals.video[order], kind="stable")]
    ends = np.searchsorted(proposals.video[order], np.arange(len(proposals.videos) + 1))
    return {name: order[ends[v] : ends[v + 1]] for v, name in enumerate(proposals.videos)}
