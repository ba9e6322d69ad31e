"""Which proposals a two-stage detector trains on: foreground, incomplete and background, in integer ticks.

A tick is an eighth of a snippet's stride, counted from the origin of the time axis (`to_ticks`). Published
features have a snippet every 8 frames, so that a tick is what a frame is there, and RoI pooling has the
published scale of 1/8. Everything below (+1 in lengths, integer halves) follows ``VideoDataSet`` of the MUSES
code, in which SSN's sampling lives on; ``PGCNDataSet`` of the P-GCN code sorts proposals alike.
golden/README.md lists its quirks as 9 to 13 and 18.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avfusion.data.features import VideoFeatures
from avfusion.data.proposal_list import ListedVideo
from avfusion.data.proposals import Segments
from avfusion.detectors.base import Video
from avfusion.evaluation.segments import segment_iou
from avfusion.options import require

TICKS_PER_SNIPPET = 8
SPATIAL_SCALE = 1 / TICKS_PER_SNIPPET
FOREGROUND, INCOMPLETE, BACKGROUND = 0, 1, 2
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SamplingOptions:
    """How proposals are told apart and how many of each are drawn per video; defaults as published.

    Attributes:
        foreground: proposals drawn that match an instance.
        incomplete: proposals drawn that cover little of an instance, yet lie on it.
        background: proposals drawn that lie on nothing.
        foreground_iou: a foreground proposal has a larger tIoU with an instance.
        incomplete_iou: an incomplete proposal has a smaller one,
        incomplete_overlap: and a larger share of itself on the instance.
        background_iou: a background proposal has a smaller tIoU with every instance,
        background_coverage: and a larger share of the video.
    """

    foreground: int = 1
    incomplete: int = 6
    background: int = 1
    foreground_iou: float = 0.7
    incomplete_iou: float = 0.3
    incomplete_overlap: float = 0.01
    background_iou: float = 0.01
    background_coverage: float = 0.02

    def __post_init__(self) -> None:
        for name in ("foreground", "incomplete", "background"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        for name in ("foreground_iou", "incomplete_iou", "background_iou"):
            require(0 <= getattr(self, name) <= 1, name, f"must be in [0, 1], not {getattr(self, name)}")

    @property
    def counts(self) -> tuple[int, int, int]:
        """Number of foreground, incomplete and background proposals, in this order."""
        return self.foreground, self.incomplete, self.background


@dataclass(frozen=True, eq=False)
class Candidates:
    """Segments of one video in ticks and how they lie on its instances; columns of equal length.

    Attributes:
        start: int, first tick.
        end: int, last tick.
        label: int, class from 1 of the instance with the largest tIoU; 0 where no instance is.
        iou: largest tIoU with an instance.
        overlap: share of the segment that lies on that instance.
        coverage: share of the video; of the segment as given, before it was cut at the end.
    """

    start: Ints
    end: Ints
    label: Ints
    iou: Floats
    overlap: Floats
    coverage: Floats

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, chosen: NDArray[np.bool_]) -> "Candidates":
        return Candidates(
            self.start[chosen],
            self.end[chosen],
            self.label[chosen],
            self.iou[chosen],
            self.overlap[chosen],
            self.coverage[chosen],
        )


def usable(
    start: Ints, end: Ints, label: Ints, iou: Floats, overlap: Floats, ticks: int, classes: int
) -> Candidates:
    """Candidates cut to a video of `ticks` ticks, without those that then are empty or of no known class."""
    coverage = (end - start) / ticks
    candidates = Candidates(
        np.maximum(start, 0), np.minimum(end, ticks), label, iou, overlap, np.asarray(coverage)
    )
    return candidates[(candidates.end > candidates.start) & (label <= classes)]


@dataclass(frozen=True, eq=False)
class Pool:
    """Proposals of one kind that a video offers.

    Attributes:
        kind: FOREGROUND, INCOMPLETE or BACKGROUND.
        rois: int (N, 4), start, end, start and end extended by half the length on both sides, in ticks.
        labels: int (N,), classes from 1; 0 for background.
        targets: float (N, 2), regression targets in real units; zeros unless foreground.
    """

    kind: int
    rois: Ints
    labels: Ints
    targets: Floats

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class VideoPools:
    """The three pools of a video; the last `instances` of the foreground are the instances themselves."""

    foreground: Pool
    incomplete: Pool
    background: Pool
    instances: int

    def kinds(self) -> tuple[Pool, Pool, Pool]:
        """The pools in the order in which a sample holds their proposals."""
        return self.foreground, self.incomplete, self.background

    def offered(self) -> list[Pool]:
        """What is drawn from for each of `kinds`: the foreground stands in for an empty pool."""
        return [pool if len(pool) else self.foreground for pool in self.kinds()]


@dataclass(frozen=True, eq=False)
class Sample:
    """Proposals drawn from a video: foreground, then incomplete, then background.

    Attributes:
        rois: int (P, 4) in ticks, as in `Pool`.
        kinds: int (P,).
        labels: int (P,), classes from 1; 0 for background.
        targets: float32 (P, 2), normalised regression targets.
    """

    rois: Ints
    kinds: Ints
    labels: Ints
    targets: NDArray[np.float32]


def to_ticks(seconds: Floats, features: VideoFeatures) -> Floats:
    """Times in ticks (not rounded) from the origin of the features' time axis."""
    return (seconds - features.axis.origin) / features.axis.stride * TICKS_PER_SNIPPET


def whole_ticks(segments: Segments, features: VideoFeatures) -> Ints:
    """The nearest ticks (N, 2) of segments in seconds."""
    bounds: Ints = np.rint(to_ticks(segments, features)).astype(np.int64)
    return bounds


def tick_count(features: VideoFeatures) -> int:
    """Number of ticks that the features cover."""
    return len(features.values) * TICKS_PER_SNIPPET


def video_candidates(video: Video, classes: int, ticks: int | None = None) -> tuple[Candidates, Candidates]:
    """Instances and proposals of a video as candidates; times are rounded to the nearest tick.

    Args:
        video: features, proposals and instances.
        classes: their number; candidates of a later class are left out.
        ticks: length of the video; None: `tick_count`.
    """
    ticks = tick_count(video.features) if ticks is None else ticks
    iou = segment_iou(video.proposals, video.instances)
    best = iou.argmax(1) if len(video.instances) else np.zeros(len(iou), dtype=np.int64)
    best_iou = iou.max(1, initial=0.0)
    label, overlap = np.zeros(len(iou), dtype=np.int64), np.zeros(len(iou))
    if len(video.instances):
        matched = video.instances[best]
        shared = np.minimum(video.proposals[:, 1], matched[:, 1]) - np.maximum(
            video.proposals[:, 0], matched[:, 0]
        )
        overlap = np.maximum(shared, 0) / (video.proposals[:, 1] - video.proposals[:, 0])
        label = np.where(best_iou > 0, video.classes[best] + 1, 0)

    start, end = whole_ticks(video.instances, video.features).T
    first, last = whole_ticks(video.proposals, video.features).T
    ones = np.ones(len(video.instances))
    instances = usable(start, end, video.classes + 1, ones, ones, ticks, classes)
    return instances, usable(first, last, label, best_iou, overlap, ticks, classes)


def listed_candidates(video: ListedVideo, classes: int) -> tuple[Candidates, Candidates]:
    """Instances and proposals of a video of a proposal list, as the published code takes them.

    Ticks are the list's frames; class, tIoU and share of proposals are what the list says. MUSES leaves out
    those of a class above `classes`; P-GCN does not.
    """
    ones = np.ones(len(video.instances))
    (start, end), (first, last) = video.instances.astype(np.int64).T, video.proposals.astype(np.int64).T
    return (
        usable(start, end, video.classes, ones, ones, video.frames, classes),
        usable(first, last, video.labels, video.iou, video.overlap, video.frames, classes),
    )


def training_rois(start: Ints, end: Ints, ticks: int) -> Ints:
    """RoIs (N, 4) for training: [start + 1, end], and the same extended by half the length (rounded down)."""
    half = (end - start) // 2
    return np.stack([start + 1, end, np.maximum(start - half, 0) + 1, np.minimum(end + half, ticks)], axis=1)


def prediction_rois(relative: Floats, ticks: int) -> Ints:
    """RoIs (N, 4) for prediction from times relative to the video's length.

    The published code divides frames by the length, multiplies again and truncates, which puts about 9 % of
    the bounds one frame lower; training and prediction differ by a tick or so. Kept as published.

    Args:
        relative: (N, 2), start and end as shares of the video, in [0, 1] where they lie within it.
        ticks: length of the video.
    """
    start, end = relative[:, 0], relative[:, 1]
    half = (end - start) / 2
    bounds = [start, end, np.maximum(start - half, 0.0), np.minimum(end + half, 1.0)]
    return (np.stack(bounds, axis=1) * ticks).astype(np.int64)


def video_rois(features: VideoFeatures, proposals: Segments) -> Ints:
    """`prediction_rois` of proposals in seconds."""
    ticks = tick_count(features)
    return prediction_rois(to_ticks(proposals, features) / ticks, ticks)


def regression_targets(proposals: Candidates, instances: Candidates) -> Floats:
    """Shift of the centre in lengths and change of the log length, from each proposal to its best instance.

    Lengths in ticks count both ends (+1), as published.
    """
    iou = segment_iou(
        np.stack([proposals.start, proposals.end], 1), np.stack([instances.start, instances.end], 1)
    )
    best = instances[iou.argmax(1)] if len(proposals) else instances[np.zeros(0, dtype=bool)]
    length, wanted = proposals.end - proposals.start + 1, best.end - best.start + 1
    shift = (best.start + best.end - proposals.start - proposals.end) / 2
    return np.stack([shift / length, np.log(wanted / length)], axis=1)


def video_pools(
    instances: Candidates, proposals: Candidates, ticks: int, options: SamplingOptions
) -> VideoPools:
    """Sort the candidates of a video that has at least one instance into the three pools."""
    foreground = proposals[proposals.iou > options.foreground_iou]
    is_incomplete = (proposals.iou < options.incomplete_iou) & (
        proposals.overlap > options.incomplete_overlap
    )
    is_background = (
        (proposals.iou < options.background_iou)
        & (proposals.coverage > options.background_coverage)
        & ~is_incomplete
    )
    targets = np.concatenate([regression_targets(foreground, instances), np.zeros((len(instances), 2))])

    def pool(kind: int, members: Sequence[Candidates], wanted: Floats | None = None) -> Pool:
        start, end, label = (
            np.concatenate([getattr(m, name) for m in members]) for name in ("start", "end", "label")
        )
        if kind == BACKGROUND:
            label = np.zeros_like(label)
        return Pool(
            kind,
            training_rois(start, end, ticks),
            label,
            np.zeros((len(label), 2)) if wanted is None else wanted,
        )

    return VideoPools(
        pool(FOREGROUND, [foreground, instances], targets),
        pool(INCOMPLETE, [proposals[is_incomplete]]),
        pool(BACKGROUND, [proposals[is_background]]),
        len(instances),
    )


def regression_statistics(pools: Sequence[VideoPools]) -> Floats:
    """Mean (row 0) and population standard deviation (row 1) of the targets of all foreground proposals.

    Instances do not count. Where there are no foreground proposals, or all are alike, the published code
    divides by zero; here the deviation is then 1.
    """
    targets = np.concatenate(
        [p.foreground.targets[: len(p.foreground) - p.instances] for p in pools] + [np.zeros((0, 2))]
    )
    if len(targets) == 0:
        return np.array([[0.0, 0.0], [1.0, 1.0]])
    deviation = targets.std(axis=0)
    return np.stack([targets.mean(axis=0), np.where(deviation > 0, deviation, 1.0)])


def draw_sample(
    pools: VideoPools, statistics: Floats, counts: tuple[int, int, int], rng: np.random.RandomState
) -> Sample:
    """Draw proposals from the pools of a video, with replacement.

    For an empty pool the foreground stands in, keeping its kind. ``RandomState(seed)`` draws what the
    published code does after ``numpy.random.seed(seed)``.

    Args:
        pools: of the video; its foreground is not empty.
        statistics: of `regression_statistics`, by which targets are normalised.
        counts: of foreground, incomplete and background proposals.
        rng: source of randomness.
    """
    offered = zip(counts, pools.offered(), strict=True)
    return sample_of([(pool, rng.choice(len(pool), count)) for count, pool in offered], statistics)


def sample_of(drawn: Sequence[tuple[Pool, Ints]], statistics: Floats) -> Sample:
    """The sample that holds the chosen proposals of some pools, with targets normalised by `statistics`."""
    rois, kinds, labels, targets = [], [], [], []
    for pool, chosen in drawn:
        rois.append(pool.rois[chosen])
        labels.append(pool.labels[chosen])
        kinds.append(np.full(len(chosen), pool.kind))
        normalised = (pool.targets[chosen] - statistics[0]) / statistics[1]
        targets.append(normalised if pool.kind == FOREGROUND else np.zeros((len(chosen), 2)))
    return Sample(
        np.concatenate(rois),
        np.concatenate(kinds),
        np.concatenate(labels),
        np.concatenate(targets).astype(np.float32),
    )
