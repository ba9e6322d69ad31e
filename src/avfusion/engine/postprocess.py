"""From scores of proposals to detections, in the published order: top k, suppression, regression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avfusion.data.detections import Detections
from avfusion.data.scores import ProposalScores
from avfusion.errors import InputError
from avfusion.ops import nms1d
from avfusion.options import read_options, require

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PostprocessOptions:
    """How scores become detections; the defaults are those of MUSES on THUMOS14.

    Attributes:
        top_k: pairs of proposal and class that are kept of a video, by score.
        nms_tiou: of two detections of a class that overlap by more than this, the better one stays.
        regression: move the boundaries as the detector says.
        completeness: let completeness count in the score.
        min_length: seconds; of the `top_k` pairs, those with a shorter proposal are left out.
        max_length: seconds; those with a longer proposal are left out; null: none. ``--min_length N`` of the
            published code, which keeps the *short* ones and takes a second for 6 frames, is this one.
    """

    top_k: int = 2000
    nms_tiou: float = 0.4
    regression: bool = True
    completeness: bool = True
    min_length: float = 0.0
    max_length: float | None = None

    def __post_init__(self) -> None:
        require(self.top_k >= 1, "top_k", f"must be at least 1, not {self.top_k}")
        require(0 <= self.nms_tiou <= 1, "nms_tiou", f"must be in [0, 1], not {self.nms_tiou}")
        require(self.min_length >= 0, "min_length", f"must not be negative, not {self.min_length}")
        longest = self.max_length
        fits = longest is None or longest > self.min_length
        require(fits, "max_length", f"must be above min_length ({self.min_length}), not {longest}")


def class_scores(scores: ProposalScores, completeness: bool = True) -> Floats:
    """Score of every proposal for every class, (N, K): softmax(activity)[1:] * exp(completeness).

    Can exceed 1. Computed in the type of the arrays, as published.
    """
    logits = scores.activity - scores.activity.max(axis=1, keepdims=True, initial=-np.inf)
    odds = np.exp(logits)
    probability: Floats = odds[:, 1:] / odds.sum(axis=1, keepdims=True)
    return probability * np.exp(scores.completeness) if completeness else probability


def refine(segments: Floats, shifts: Floats) -> Floats:
    """Segments (N, 2) with their centres moved by shift[0] lengths and their lengths times exp(shift[1])."""
    length = segments[:, 1] - segments[:, 0]
    centre = (segments[:, 0] + segments[:, 1]) / 2 + length * shifts[:, 0]
    half = length * np.exp(shifts[:, 1]) / 2
    return np.stack([centre - half, centre + half], axis=1)


def detections_from_scores(
    scores: Mapping[str, ProposalScores],
    labels: Sequence[str],
    durations: Mapping[str, float],
    config: Mapping[str, Any] | None = None,
) -> Detections:
    """Detections of all videos.

    Per video the `top_k` best pairs of proposal and class; per video and class non-maximum suppression of the
    *proposals*; then regression, cut to the video, and no suppression any more. Of equal scores the earlier
    proposal goes first. (In the published code the order of equal scores is open.)

    Args:
        scores: of the proposals, by video.
        labels: names of the K classes.
        durations: of the videos in seconds.
        config: `PostprocessOptions` by name.

    Returns:
        Detections by video in the order of `scores`, within a video by descending score.

    Raises:
        InputError: unknown option; a video without duration; scores that are not finite or not of K classes.

    Source: ``eval.py`` of the MUSES code.
    """
    options = read_options(PostprocessOptions, config or {}, "post-processing")
    parts = [
        _candidates(name, value, len(labels), index, options)
        for index, (name, value) in enumerate(scores.items())
    ]
    columns = [np.concatenate(column) for column in zip(_nothing(), *parts, strict=True)]
    video, label, score, segment, shift = columns
    groups = torch.from_numpy(video * max(len(labels), 1) + label)
    kept = nms1d(torch.from_numpy(segment), torch.from_numpy(score), options.nms_tiou, groups).numpy()
    kept = kept[np.argsort(video[kept], kind="stable")]
    video, label, score, segment, shift = (column[kept] for column in columns)
    start, end = segment.T.copy()
    if options.regression:
        ends = np.array([_duration(name, durations) for name in scores], dtype=np.float64)
        start, end = np.clip(refine(segment, shift), 0.0, ends[video][:, None]).T.copy()
    return Detections(tuple(scores), tuple(labels), video, label, start, end, score)


def _candidates(
    name: str, scores: ProposalScores, classes: int, index: int, options: PostprocessOptions
) -> tuple[NDArray[Any], ...]:
    """The best pairs of a video as columns: video, class, score, segment, shift."""
    _check(name, scores, classes)
    table = class_scores(scores, options.completeness)
    best = np.argsort(-table, axis=None, kind="stable")[: options.top_k]
    proposal, label = np.divmod(best, max(classes, 1))
    length = np.diff(scores.proposals, axis=1)[proposal, 0]
    fits = (length >= options.min_length) & (length <= (options.max_length or np.inf))
    best, proposal, label = best[fits], proposal[fits], label[fits]
    return (
        np.full(len(best), index, dtype=np.int64),
        label.astype(np.int64),
        table.ravel()[best].astype(np.float64),
        scores.proposals[proposal].astype(np.float64),
        scores.regression[proposal, label].astype(np.float64),
    )


def _nothing() -> tuple[NDArray[Any], ...]:
    none = np.zeros(0, dtype=np.int64)
    return none, none, np.zeros(0), np.zeros((0, 2)), np.zeros((0, 2))


def _check(name: str, scores: ProposalScores, classes: int) -> None:
    scored = scores.completeness.shape[1]
    if scored != classes:
        raise InputError("scores", f"{scored} classes are scored, but {classes} are named", name)
    for part in ("activity", "completeness", "regression"):
        if not np.isfinite(getattr(scores, part)).all():
            raise InputError("scores", f"{part} holds a value that is not finite", name)


def _duration(name: str, durations: Mapping[str, float]) -> float:
    duration = durations.get(name)
    if duration is None or not duration > 0:
        raise InputError(
            "durations", "the length of the video in seconds is needed to cut detections to it", name
        )
    return float(duration)
