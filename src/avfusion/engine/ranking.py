"""What becomes of ranked proposals: one list of several, and detections with the help of class scores.

Ranked proposals have no classes. Class scores say how likely every class is, of a whole video (published:
UntrimmedNet or CUHK, read from a file) or of each proposal (`classify`, with the detector's own classifier).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avfusion.data.class_scores import ClassScores
from avfusion.data.detections import Detections
from avfusion.data.features import VideoFeatures
from avfusion.data.proposals import RankedProposals
from avfusion.detectors.base import Video
from avfusion.detectors.gtad import Gtad
from avfusion.detectors.gtad_ranking import RankingOptions, soft_nms
from avfusion.engine.checkpoint import Checkpoint, read_checkpoint
from avfusion.engine.predict import load_detector
from avfusion.engine.standardise import Standardiser
from avfusion.errors import InputError
from avfusion.options import read_options, require

Ranked = Mapping[str, RankedProposals]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabellingOptions:
    """How ranked proposals and class scores become detections; the defaults are those of G-TAD on THUMOS14.

    Attributes:
        proposals: best proposals of a video that become detections.
        classes: best classes of a proposal (or of the video), each of which gives a detection.
        score_decimals: digits to which scores are rounded; null does not round.
        time_decimals: digits to which seconds are rounded; null does not round.
    """

    proposals: int = 200
    classes: int = 2
    score_decimals: int | None = 6
    time_decimals: int | None = 1

    def __post_init__(self) -> None:
        for name in ("proposals", "classes"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        for name in ("score_decimals", "time_decimals"):
            value = getattr(self, name)
            require(value is None or value >= 0, name, f"must be at least 0 or null, not {value}")


def detections_from_proposals(
    ranked: Ranked,
    class_scores: Mapping[str, ClassScores],
    labels: Sequence[str],
    durations: Mapping[str, float],
    config: Mapping[str, Any] | None = None,
) -> Detections:
    """Detections of all videos: score of the proposal times score of the class.

    Args:
        ranked: proposals by video, best first.
        class_scores: by video, (K,) or a row for every proposal (N, K).
        labels: names of the K classes.
        durations: of the videos in seconds; detections are cut to them.
        config: `LabellingOptions` by name.

    Returns:
        Detections by video in the order of `ranked`, by proposal and then by class from the best on. Of
        equal classes the later goes first, as published.

    Raises:
        InputError: unknown option; a video without class scores or duration; scores of another number of
            classes or proposals.

    Source: ``_gen_detection_video`` of the G-TAD code.
    """
    options = read_options(LabellingOptions, config or {}, "labelling")
    parts = []
    for index, (name, proposals) in enumerate(ranked.items()):
        table = _rows(name, class_scores, len(proposals), len(labels))[: options.proposals]
        proposals = RankedProposals(proposals.segments[: len(table)], proposals.scores[: len(table)])
        # ascending and read backwards: of equal scores the larger index is the better one
        best = np.argsort(table, axis=1, kind="stable")[:, ::-1][:, : options.classes]
        score = proposals.scores[:, None] * np.take_along_axis(table, best, axis=1)
        end = np.minimum(proposals.segments[:, 1], _duration(name, durations))
        bounds = np.stack([np.maximum(proposals.segments[:, 0], 0.0), end], axis=1)
        bounds = np.repeat(_rounded(bounds, options.time_decimals), best.shape[1], axis=0)
        score = _rounded(score.ravel(), options.score_decimals)
        parts.append((np.full(best.size, index), best.ravel(), bounds, score))
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0))
    video, label, segment, score = (np.concatenate(column) for column in zip(nothing, *parts, strict=True))
    start, end = segment.T.copy()
    return Detections(tuple(ranked), tuple(labels), video, label, start, end, score)


def pool_proposals(
    members: Sequence[Ranked],
    class_scores: Sequence[Mapping[str, ClassScores]] = (),
    config: Mapping[str, Any] | None = None,
) -> tuple[dict[str, RankedProposals], dict[str, ClassScores]]:
    """Decision fusion of proposal sources: all proposals of a video in one list, and one suppression.

    Args:
        members: ranked proposals by video of every source. A video need not be in all of them.
        class_scores: of every member, if pooled class scores are wanted.
        config: `RankingOptions` by name; `per_window` and `longest` have done their part before.

    Returns:
        The pooled proposals, by video in the order of the members, and their class scores (N, K): of each
        proposal those that its source gave it; empty if none are given.

    Raises:
        InputError: no member, other numbers of members and class scores, or class scores that do not fit.
    """
    options = read_options(RankingOptions, config or {}, "decision fusion")
    if not members or (class_scores and len(class_scores) != len(members)):
        problem = f"{len(members)} members with {len(class_scores)} sets of class scores cannot be pooled"
        raise InputError("decision fusion", problem)
    pooled: dict[str, RankedProposals] = {}
    classes: dict[str, ClassScores] = {}
    for video in dict.fromkeys(video for member in members for video in member):
        there = [k for k, member in enumerate(members) if video in member]
        segments = np.concatenate([members[k][video].segments for k in there])
        scores = np.concatenate([members[k][video].scores for k in there])
        order = np.argsort(-scores, kind="stable")
        kept, decayed = soft_nms(
            segments[order], scores[order], options.sigma, options.per_video, options.return_last
        )
        pooled[video] = RankedProposals(segments[order][kept], decayed)
        if class_scores:
            tables = [_rows(video, class_scores[k], len(members[k][video])) for k in there]
            if len({table.shape[1] for table in tables}) > 1:
                counts = " and ".join(str(table.shape[1]) for table in tables)
                raise InputError("class scores", f"the members score {counts} classes", video)
            classes[video] = np.concatenate(tables)[order][kept]
    return pooled, classes


def classify(
    checkpoint: str | Path | Checkpoint, features: Mapping[str, VideoFeatures], ranked: Ranked
) -> dict[str, ClassScores]:
    """Class scores (N, K) of the proposals of every video, by the classifier that a checkpoint holds.

    Args:
        checkpoint: of a G-TAD that was trained with a classifier.
        features: of all videos in `ranked`, with the streams fused as in training.
        ranked: proposals by video, which may come from anywhere.

    Raises:
        InputError: no such checkpoint; a video without features.
    """
    trained = checkpoint if isinstance(checkpoint, Checkpoint) else read_checkpoint(checkpoint)
    detector = load_detector(trained)
    if not (isinstance(detector, Gtad) and detector.class_weight is not None):
        problem = "holds no classifier; train gtad with `classifier: linear`, or name a file of class scores"
        raise InputError(trained.source, problem)
    standardiser = Standardiser.from_tensors(trained.statistics)
    scores = {}
    for name, proposals in ranked.items():
        if name not in features:
            raise InputError("features", "the video has proposals to classify, but no features", name)
        values = features[name] if standardiser is None else standardiser(features[name])
        scores[name] = detector.class_scores(Video(name, values), proposals.segments)
    return scores


def _rows(
    video: str, class_scores: Mapping[str, ClassScores], proposals: int, classes: int | None = None
) -> Floats:
    """Class scores with a row for every proposal of a video."""
    if video not in class_scores:
        raise InputError("class scores", "there are none of this video, which has proposals", video)
    scores = class_scores[video]
    if classes is not None and scores.shape[-1] != classes:
        raise InputError("class scores", f"{scores.shape[-1]} classes are scored, {classes} are named", video)
    if scores.ndim == 2 and len(scores) != proposals:
        raise InputError("class scores", f"{len(scores)} rows do not fit {proposals} proposals", video)
    return scores if scores.ndim == 2 else np.broadcast_to(scores, (proposals, len(scores)))


def _rounded(values: Floats, decimals: int | None) -> Floats:
    """Rounded as Python rounds a decimal number, which numpy does not quite do."""
    if decimals is None:
        return values
    return np.array([round(value, decimals) for value in values.ravel().tolist()]).reshape(values.shape)


def _duration(video: str, durations: Mapping[str, float]) -> float:
    duration = durations.get(video)
    if duration is None or not duration > 0:
        problem = "the length of the video in seconds is needed to cut detections to it"
        raise InputError("durations", problem, video)
    return float(duration)
