"""Interpolated mean average precision of detections, after the ActivityNet toolkit.

The protocol (which MUSES, P-GCN, G-TAD and tal-hmo share): per class, detections of all videos in order of
falling score; a detection tries the instances of its video and class in order of falling tIoU and takes
the first that is free, if their tIoU reaches the threshold (equality counts); otherwise it is a false
positive. AP is the area under the precision-recall curve with precision replaced by the largest one at
any higher recall (all points). mAP is the mean over the classes that have instances; a class without any has
no AP (MUSES counts such a class as 0, which its published sets do not contain).

Order of ties: the toolkit sorts scores with an unstable sort that is read backwards, so equal scores have no
defined order there. Here *the earlier row comes first*. Among instances of equal tIoU the later one is
tried first, which is what reading a stable sort backwards gives.

A detection in a video that the annotations do not know is a false positive, as in the toolkit; one in a video
of another subset is set aside. Both are counted in the protocol.

The evaluation as JSON (`Evaluation.to_json`; shares in [0, 1], null where undefined)::

    {"protocol": {"subset": "test",            # null: annotations without .subset()
                  "time_base": "seconds",
                  "videos": 213,               # in the subset
                  "videos_annotated": 212,     # ... with at least one instance
                  "videos_with_detections": 210,
                  "instances": 3358, "classes": 20,          # classes with instances
                  "detections": 87285,                       # that were evaluated
                  "videos_unknown": 0, "detections_unknown": 0,        # not annotated: false positives
                  "videos_elsewhere": 0, "detections_elsewhere": 0,    # in another subset: set aside
                  "ties": "earlier row first", "interpolation": "all points"},
     "tiou": [0.3, 0.4, 0.5],
     "mAP": [0.69, 0.64, 0.57],                # one per tIoU
     "average": 0.63,                          # mean of mAP
     "classes": {"BaseballPitch": {"instances": 41, "detections": 3072, "AP": [0.50, 0.49, 0.46]}, ...}}
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avfusion.data.annotations import Annotations
from avfusion.data.detections import Detections
from avfusion.errors import InputError, did_you_mean
from avfusion.evaluation.segments import paired_iou, segment_iou

__all__ = ["Evaluation", "Protocol", "average_precision", "evaluate", "segment_iou"]

ELSEWHERE = -1  # in place of a video's number: it is in a subset that is not evaluated


@dataclass(frozen=True)
class Protocol:
    """What a figure was measured on; the module's text says what each number counts."""

    subset: str | None
    videos: int
    videos_annotated: int
    videos_with_detections: int
    instances: int
    classes: int
    detections: int
    videos_unknown: int
    detections_unknown: int
    videos_elsewhere: int
    detections_elsewhere: int
    time_base: str = "seconds"
    ties: str = "earlier row first"
    interpolation: str = "all points"

    def __str__(self) -> str:
        parts = [f"subset {self.subset}"] if self.subset else []
        parts += [
            f"{self.videos_annotated} annotated videos ({self.videos_with_detections} with detections)",
            f"{self.instances} instances of {self.classes} classes",
            f"{self.detections} detections",
            f"time base {self.time_base}",
        ]
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Average precision per class and tIoU, and the protocol it was measured under.

    Attributes:
        protocol: counts and conventions.
        tiou: the T thresholds.
        labels: the C classes.
        ap: float64 (C, T) in [0, 1]; NaN in the rows of classes without instances.
        instances: int (C,), number of instances.
        detections: int (C,), number of detections.
    """

    protocol: Protocol
    tiou: tuple[float, ...]
    labels: tuple[str, ...]
    ap: NDArray[np.float64]
    instances: NDArray[np.int64]
    detections: NDArray[np.int64]

    @property
    def map(self) -> NDArray[np.float64]:
        """Mean over the classes that have instances, float64 (T,)."""
        return self.ap[self.instances > 0].mean(axis=0)

    @property
    def average(self) -> float:
        """Mean of `map` over the thresholds."""
        return float(self.map.mean())

    def to_json(self) -> dict[str, Any]:
        """The evaluation as a JSON value, for `avfusion.files.write_json` (schema: the module's text)."""
        classes = {
            label: {
                "instances": int(instances),
                "detections": int(detections),
                "AP": ap.tolist() if instances else None,
            }
            for label, instances, detections, ap in zip(
                self.labels, self.instances, self.detections, self.ap, strict=True
            )
        }
        return {
            "protocol": asdict(self.protocol),
            "tiou": list(self.tiou),
            "mAP": self.map.tolist(),
            "average": self.average,
            "classes": classes,
        }


def evaluate(detections: Detections, annotations: Annotations, tiou: Sequence[float]) -> Evaluation:
    """Evaluate detections against the instances of (one subset of) a dataset.

    Args:
        detections: of any videos; the module's text says what happens to those the annotations do not have.
        annotations: usually ``annotations.subset(...)``: every video in it counts, with detections or not.
        tiou: thresholds in (0, 1].

    Raises:
        InputError: a detection's label is no class of the annotations; no instance to find.
    """
    matching = match(detections, annotations, tiou)
    classes = len(annotations.labels)
    instances = np.bincount(matching.truth.label, minlength=classes)
    ap = np.full((classes, len(matching.tiou)), np.nan)
    found = matching.of_classes(classes)
    for c in np.flatnonzero(instances):
        ap[c] = average_precision(matching.hits[:, found[c]], int(instances[c]))
    video = _number_videos(detections, annotations)
    protocol = _protocol(detections, annotations, matching.truth, video)
    counts = np.array([len(rows) for rows in found], dtype=np.int64)
    return Evaluation(protocol, matching.tiou, annotations.labels, ap, instances, counts)


def match(detections: Detections, annotations: Annotations, tiou: Sequence[float]) -> "Matching":
    """Which detections find an instance; the step before precision and recall are counted.

    Args:
        detections: as for `evaluate`, and so are the others.

    Raises:
        InputError: as `evaluate`.
    """
    thresholds = np.asarray(tiou, dtype=np.float64)
    if not (thresholds.ndim == 1 and thresholds.size and ((thresholds > 0) & (thresholds <= 1)).all()):
        raise ValueError(f"tIoU thresholds must be in (0, 1]: {tiou}")
    truth = _truth(annotations)
    if not truth.label.size:
        raise InputError(annotations.source, "there is no instance to find in it", "annotations")
    label = _known_labels(detections, annotations)
    video = _number_videos(detections, annotations)
    ranked = _rank(detections, label, video)
    return Matching(tuple(thresholds.tolist()), ranked, truth, _match(ranked, truth, thresholds))


def average_precision(hits: ArrayLike, instances: int) -> NDArray[np.float64]:
    """Interpolated average precision of one class.

    Args:
        hits: bool (..., N): whether each detection, in order of falling score, found a free instance.
        instances: number of instances of the class, above 0.

    Returns:
        float64 (...): sum over the hits of the largest precision at this or any higher recall, divided by
        the number of instances.
    """
    hit = np.asarray(hits, dtype=bool)
    precision = np.cumsum(hit, axis=-1) / np.arange(1, hit.shape[-1] + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray((envelope * hit).sum(axis=-1) / instances)


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments of many videos in columns: video (N,), label (N,), segment (N, 2)."""

    video: NDArray[np.int64]
    label: NDArray[np.int64]
    segment: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Matching:
    """Detections and the instances that they find.

    Attributes:
        tiou: the T thresholds.
        ranked: the N detections that are evaluated, in order of falling score. Videos are numbered as in the
            annotations; those that are not annotated come after them.
        truth: the M instances.
        hits: bool (T, N), whether each detection found a free instance.
    """

    tiou: tuple[float, ...]
    ranked: Segments
    truth: Segments
    hits: NDArray[np.bool_]

    def of_classes(self, classes: int) -> list[NDArray[np.int64]]:
        """Indices of the detections of every class, in order of falling score."""
        by_class = np.argsort(self.ranked.label, kind="stable")
        ends = np.searchsorted(self.ranked.label[by_class], np.arange(classes + 1))
        return [by_class[ends[c] : ends[c + 1]] for c in range(classes)]


def _match(ranked: Segments, truth: Segments, tiou: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which detections find a free instance of their video and class.

    Going through the detections one by one, each taking its best free instance, ends in the stable matching
    in which all instances prefer the detection of higher rank. Deferred acceptance (Gale and Shapley, 1962)
    finds it for all classes, videos and thresholds at once: in rounds, every unmatched detection asks the
    next instance on its list, and an instance keeps the best-ranked of those that ask and frees the one
    it held.

    Args:
        ranked: N detections in order of falling score.
        truth: M instances.
        tiou: T thresholds.

    Returns:
        bool (T, N).
    """
    who, instance, iou = _candidates(ranked, truth, float(tiou.min()))
    count = len(ranked.video)
    first = np.searchsorted(who, np.arange(count))
    # instances that reach the threshold stand first on a list sorted by tIoU
    reach = np.stack([np.bincount(who[iou >= threshold], minlength=count) for threshold in tiou])
    last = first + reach
    holder = np.full((tiou.size, len(truth.video)), count)  # rank of the detection that an instance keeps
    asks = first + np.zeros_like(reach)  # the candidate that a detection asks next
    level, rank = np.nonzero(asks < last)
    while rank.size:
        wanted = instance[asks[level, rank]]
        before = holder[level, wanted]
        np.minimum.at(holder, (level, wanted), rank)
        after = holder[level, wanted]
        refused = after != rank
        freed = (~refused) & (before < count)
        level = np.concatenate([level[refused], level[freed]])
        rank = np.concatenate([rank[refused], before[freed]])
        asks[level, rank] += 1
        more = asks[level, rank] < last[level, rank]
        level, rank = level[more], rank[more]
    hits = np.zeros((tiou.size, count + 1), dtype=bool)
    hits[np.arange(tiou.size)[:, None], holder] = True
    return hits[:, :count]


def _candidates(
    ranked: Segments, truth: Segments, lowest: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of one video and class with a tIoU of at least `lowest`, sorted by rank and then falling tIoU.

    Returns:
        rank of the detection, index of the instance, tIoU; each (P,).
    """
    classes = 1 + max(int(truth.label.max(initial=0)), int(ranked.label.max(initial=0)))
    key = truth.video * classes + truth.label
    by_key = np.argsort(key, kind="stable")
    wanted = ranked.video * classes + ranked.label
    start = np.searchsorted(key[by_key], wanted, side="left")
    size = np.searchsorted(key[by_key], wanted, side="right") - start
    who = np.repeat(np.arange(wanted.size), size)
    within = np.arange(who.size) - np.repeat(np.cumsum(size) - size, size)
    instance = by_key[start[who] + within]
    iou = paired_iou(ranked.segment[who], truth.segment[instance])
    kept = iou >= lowest
    who, instance, iou = who[kept], instance[kept], iou[kept]
    order = np.lexsort((-instance, -iou, who))
    return who[order], instance[order], iou[order]


def _number_videos(detections: Detections, annotations: Annotations) -> NDArray[np.int64]:
    """The index of each of the detections' videos among the annotated ones.

    ELSEWHERE for a video of another subset; a number of its own above all others for an unknown one.
    """
    known = {name: index for index, name in enumerate(annotations.videos)}
    numbers = [
        ELSEWHERE if name in annotations.elsewhere else known.get(name, len(known) + index)
        for index, name in enumerate(detections.videos)
    ]
    return np.array(numbers, dtype=np.int64)


def _rank(detections: Detections, label: NDArray[np.int64], video: NDArray[np.int64]) -> Segments:
    """The detections that are to be evaluated, in order of falling score and then of rows."""
    order = np.argsort(-detections.score, kind="stable")
    order = order[video[detections.video[order]] != ELSEWHERE]
    segments = np.stack([detections.start[order], detections.end[order]], axis=1)
    return Segments(video[detections.video[order]], label[order], segments)


def _protocol(
    detections: Detections, annotations: Annotations, truth: Segments, video: NDArray[np.int64]
) -> Protocol:
    found = video[np.unique(detections.video)]
    rows = video[detections.video]
    known = len(annotations.videos)
    subsets = list(annotations.subsets)
    return Protocol(
        subset=subsets[0] if len(subsets) == 1 else None,
        videos=known,
        videos_annotated=len(np.unique(truth.video)),
        videos_with_detections=int(((found >= 0) & (found < known)).sum()),
        instances=int(truth.label.size),
        classes=len(np.unique(truth.label)),
        detections=int((rows != ELSEWHERE).sum()),
        videos_unknown=int((found >= known).sum()),
        detections_unknown=int((rows >= known).sum()),
        videos_elsewhere=int((found == ELSEWHERE).sum()),
        detections_elsewhere=int((rows == ELSEWHERE).sum()),
    )


def _truth(annotations: Annotations) -> Segments:
    classes = {label: index for index, label in enumerate(annotations.labels)}
    rows = [
        (video, classes[instance.label], instance.start, instance.end)
        for video, value in enumerate(annotations.videos.values())
        for instance in value.instances
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return Segments(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:])


def _known_labels(detections: Detections, annotations: Annotations) -> NDArray[np.int64]:
    """The index of every detection's label among the annotations' classes."""
    classes = {label: index for index, label in enumerate(annotations.labels)}
    renumber = np.array([classes.get(label, -1) for label in detections.labels], dtype=np.int64)
    label = renumber[detections.label]
    if (label < 0).any():
        row = int((label < 0).argmax())
        name = detections.labels[detections.label[row]]
        hint = did_you_mean(name, annotations.labels)
        problem = f"'{name}' is no class of {annotations.source}{hint}"
        raise InputError(detections.source, problem, detections.place(row, "label"))
    return label
