"""What became of the surest detections: found an action, or went wrong, and how.

Scores of different experiments are not on one scale. What makes them comparable is a number: of every
experiment the surest detections are looked at, as many as there are instances to find, so that the share of
them that is right is precision and recall at once. (DETAD, Alwassel et al. 2018, splits errors in the
same kinds, over ten times as many detections and with other bounds.)
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from avfusion.data.annotations import Annotations
from avfusion.data.detections import Detections
from avfusion.evaluation.segments import segment_iou

NEAR = 0.1  # a tIoU with an instance below which a detection has nothing to do with it


class Outcome(IntEnum):
    """What a detection turned out to be."""

    FOUND = 0
    BOUNDARIES = 1
    CLASS = 2
    DUPLICATE = 3
    BACKGROUND = 4


@dataclass(frozen=True, eq=False)
class Judged:
    """The surest detections of an experiment in order of falling score, and what each turned out to be."""

    video: tuple[str, ...]
    label: tuple[str, ...]
    segment: NDArray[np.float64]  # (N, 2), seconds
    outcome: NDArray[np.int64]  # (N,), values of Outcome

    def counts(self) -> list[int]:
        """Number of detections of every outcome."""
        return np.bincount(self.outcome, minlength=len(Outcome)).tolist()


def judge(detections: Detections, annotations: Annotations, tiou: float = 0.5) -> Judged:
    """Take the surest detections, as many as there are instances, and say what each turned out to be.

    In order of falling score (equal ones: earlier row first), a detection

    - *found* the instance of its class with which its tIoU is largest, among those not yet found and with at
      least `tiou`;
    - else is a *duplicate*, if it covers (tIoU of at least `tiou`) one of its class that was found before;
    - else has the wrong *class*, if it covers an instance of another class;
    - else has wrong *boundaries*, if its tIoU with one of its class is at least 0.1;
    - else lies in the *background*.

    Args:
        detections: of any videos; those in videos that `annotations` does not have are left out.
        annotations: usually one subset.
        tiou: what counts as found.
    """
    known = np.array([video in annotations.videos for video in detections.videos], dtype=bool)
    rows = np.flatnonzero(known[detections.video])
    order = np.argsort(-detections.score[rows], kind="stable")[: annotations.instances()]
    rows = rows[order]
    segment = np.stack([detections.start[rows], detections.end[rows]], axis=1)
    videos = tuple(detections.videos[i] for i in detections.video[rows])
    labels = tuple(detections.labels[i] for i in detections.label[rows])
    outcome = np.full(len(rows), int(Outcome.BACKGROUND), dtype=np.int64)
    by_video: dict[str, list[int]] = {}
    for index, video in enumerate(videos):
        by_video.setdefault(video, []).append(index)
    for video, mine in by_video.items():
        outcome[mine] = _judge_video(segment[mine], [labels[i] for i in mine], annotations, video, tiou)
    return Judged(videos, labels, segment, outcome)


def _judge_video(
    segment: NDArray[np.float64], labels: list[str], annotations: Annotations, video: str, tiou: float
) -> list[int]:
    instances = annotations.videos[video].instances
    if not instances:
        return [int(Outcome.BACKGROUND)] * len(labels)
    truth = np.array([instance.label for instance in instances])
    overlap = segment_iou(segment, [(instance.start, instance.end) for instance in instances])
    free = np.ones(len(instances), dtype=bool)
    outcome = []
    for label, iou in zip(labels, overlap, strict=True):
        same, covered = truth == label, iou >= tiou
        candidates = same & covered & free
        if candidates.any():
            free[np.where(candidates, iou, -1).argmax()] = False
            outcome.append(Outcome.FOUND)
        elif (same & covered).any():
            outcome.append(Outcome.DUPLICATE)
        elif covered.any():
            outcome.append(Outcome.CLASS)
        elif (same & (iou >= NEAR)).any():
            outcome.append(Outcome.BOUNDARIES)
        else:
            outcome.append(Outcome.BACKGROUND)
    return [int(value) for value in outcome]
