"""Decision fusion: what several detectors say, as one.

``scores``: weighted mean of the scores of the *same* proposals. Merging is applied twice for sound: rgb and
flow as 1 : 1.2, and what comes out with the audio.

``proposals``: the proposals of all members together. They may differ, only the classes must be the same. Two
readings of the published words: pool before the one post-processing that follows (`pool_videos`), or pool
what the post-processing of every member has left, and suppress again (`pool_detections`; this one takes any
detector, also one that scores no proposals).

Source: score files given with ``--score_weights`` to ``eval.py`` of the MUSES code, and the README of
"Hear Me Out" (tal-hmo). What differs: members of a merge whose proposals differ are refused.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avfusion.data.detections import Detections, read_detections, write_detections
from avfusion.data.scores import ProposalScores, read_scores, write_scores
from avfusion.errors import InputError
from avfusion.ops import nms1d

PARTS = ("proposals", "activity", "completeness", "regression")
SAME_TIME = 1e-6  # seconds; proposals of several runs may differ in the last digits
logger = logging.getLogger("avfusion")


def merge_scores(
    members: Sequence[ProposalScores], weights: Sequence[float] | None = None, video: str = "scores"
) -> ProposalScores:
    """Weighted mean of activity, completeness and regression of one video.

    Args:
        members: scores of the same proposals, in the same order, for the same classes.
        weights: one per member, above 0; None: equal weights. With weights the result is float64; without
            them the type of the members stays, as published.
        video: for messages.

    Raises:
        InputError: other proposals or classes than the first member's, or weights that do not fit.
    """
    factors = _checked(members, weights)
    for number, member in enumerate(members[1:], start=2):
        _check_same(members[0], member, number, video)
    merged = {name: _mean([getattr(member, name) for member in members], factors) for name in PARTS[1:]}
    return ProposalScores(members[0].proposals, **merged)


def merge_videos(
    members: Sequence[Mapping[str, ProposalScores]], weights: Sequence[float] | None = None
) -> dict[str, ProposalScores]:
    """`merge_scores` of every video that all members have scores of; how many others there are is logged.

    Raises:
        InputError: as `merge_scores`, naming the video; or the members have no video in common.
    """
    _checked(members, weights)
    common = [video for video in members[0] if all(video in member for member in members)]
    every = {video for member in members for video in member}
    if not common and every:
        raise InputError("decision fusion", "the members have no video in common")
    if len(common) < len(every):
        logger.warning(
            "%d of %d videos are not in all members and are left out", len(every) - len(common), len(every)
        )
    return {video: merge_scores([member[video] for member in members], weights, video) for video in common}


def merge_score_files(
    paths: Sequence[str | Path], weights: Sequence[float] | None, out_path: str | Path
) -> None:
    """Merge score files (see `avfusion.data.scores`) into one.

    Raises:
        InputError: a file cannot be read, or the classes or proposals of two files differ.
    """
    members, labels = _read_members(paths)
    write_scores(out_path, merge_videos(members, weights), labels)


def with_classifier(
    scores: Mapping[str, ProposalScores], classifier: Mapping[str, ProposalScores], scale: float = 1.0
) -> dict[str, ProposalScores]:
    """`scores` with the activity of a classifier that scores the same proposals (``--cls_scores``).

    Args:
        scores: of a detector, or merged.
        classifier: whose activity takes the place of that of `scores`.
        scale: factor on the classifier's logits. The published code passes the classifier through the merge
            of the streams, weights w and all, which leaves w[0] / sum(w) of it: 1 / 2.2 for 1 : 1.2.

    Raises:
        InputError: other proposals or classes, or a video that the classifier lacks.
    """
    chosen = {}
    for video, value in scores.items():
        if video not in classifier:
            raise InputError("classifier", "has no scores of this video", video)
        _check_same(value, classifier[video], 2, video)
        chosen[video] = replace(value, activity=classifier[video].activity * scale)
    return chosen


def pool_scores(members: Sequence[ProposalScores], video: str = "scores") -> ProposalScores:
    """The proposals of all members of one video with their scores, one member after the other.

    Raises:
        InputError: members of different numbers of classes, or none at all.
    """
    _checked(members, None)
    for number, member in enumerate(members[1:], start=2):
        _check_classes(members[0], member, number, video)
    return ProposalScores(*(np.concatenate([getattr(member, part) for member in members]) for part in PARTS))


def pool_videos(members: Sequence[Mapping[str, ProposalScores]]) -> dict[str, ProposalScores]:
    """`pool_scores` of every video that any member has; one that a member lacks has the others' (logged).

    Raises:
        InputError: as `pool_scores`, naming the video.
    """
    _checked(members, None)
    every = list(dict.fromkeys(video for member in members for video in member))
    partly = sum(any(video not in member for member in members) for video in every)
    if partly:
        logger.warning("%d of %d videos are not in all members and are pooled from fewer", partly, len(every))
    return {
        video: pool_scores([member[video] for member in members if video in member], video) for video in every
    }


def pool_score_files(paths: Sequence[str | Path], out_path: str | Path) -> None:
    """Pool score files (see `avfusion.data.scores`) into one, whose proposals are those of all of them.

    Raises:
        InputError: a file cannot be read, or the classes of two files differ.
    """
    members, labels = _read_members(paths)
    write_scores(out_path, pool_videos(members), labels)


def pool_detections(members: Sequence[Detections], nms_tiou: float = 0.4) -> Detections:
    """Detections of all members, without those that a better one of the same video and class overlaps.

    Args:
        members: each already post-processed.
        nms_tiou: of two detections that overlap by more than this, the better one stays.

    Returns:
        Detections of every video and class that any member has, by video and falling score; of equal scores
        those of the earlier member go first.
    """
    _checked(members, None)
    videos = tuple(dict.fromkeys(video for member in members for video in member.videos))
    labels = tuple(dict.fromkeys(label for member in members for label in member.labels))
    video = np.concatenate([_renumbered(m.video, m.videos, videos) for m in members])
    label = np.concatenate([_renumbered(m.label, m.labels, labels) for m in members])
    start, end, score = (np.concatenate([getattr(m, k) for m in members]) for k in ("start", "end", "score"))
    segments, groups = torch.from_numpy(np.stack([start, end], axis=1)), video * max(len(labels), 1) + label
    kept = nms1d(segments, torch.from_numpy(score), nms_tiou, torch.from_numpy(groups)).numpy()
    kept = kept[np.argsort(video[kept], kind="stable")]
    return Detections(videos, labels, *(column[kept] for column in (video, label, start, end, score)))


def pool_detection_files(paths: Sequence[str | Path], out_path: str | Path, nms_tiou: float = 0.4) -> None:
    """`pool_detections` of files (see `avfusion.data.detections`) into a submission JSON.

    Raises:
        InputError: a file cannot be read.
    """
    write_detections(out_path, pool_detections([read_detections(path) for path in paths], nms_tiou))


def _read_members(paths: Sequence[str | Path]) -> tuple[list[dict[str, ProposalScores]], list[str]]:
    """Scores of every file, and their common labels."""
    files = [read_scores(path) for path in paths]
    _checked(files, None)
    for path, (_, labels) in zip(paths, files, strict=True):
        if labels != files[0][1]:
            raise InputError(path, f"has other classes than {paths[0]}", "labels")
    return [scores for scores, _ in files], files[0][1]


def _renumbered(index: NDArray[np.int64], names: Sequence[str], among: Sequence[str]) -> NDArray[np.int64]:
    """Indices into `names` as indices into `among`."""
    position = {name: k for k, name in enumerate(among)}
    table = np.array([position[name] for name in names], dtype=np.int64)
    return table[index]


def _checked(members: Sequence[Any], weights: Sequence[float] | None) -> NDArray[np.float64] | None:
    if not members:
        raise InputError("decision fusion", "there is nothing to merge")
    if weights is None:
        return None
    factors = np.asarray(weights, dtype=np.float64)
    if factors.shape != (len(members),) or not (np.isfinite(factors).all() and (factors > 0).all()):
        problem = f"must be {len(members)} numbers above 0, one for each member, not {list(weights)}"
        raise InputError("decision fusion", problem, "weights")
    return factors


def _check_same(first: ProposalScores, other: ProposalScores, number: int, video: str) -> None:
    if len(first.proposals) != len(other.proposals):
        problem = (
            f"member 1 has {len(first.proposals)} proposals, member {number} has {len(other.proposals)}; "
            "fuse experiments that score the same proposals"
        )
        raise InputError("decision fusion", problem, video)
    differs = np.abs(first.proposals - other.proposals).max(axis=1, initial=0.0) > SAME_TIME
    if differs.any():
        k = int(differs.argmax())
        one, two = (f"[{s[0]:g}, {s[1]:g}]" for s in (first.proposals[k], other.proposals[k]))
        problem = (
            f"proposal {k} is {one} in member 1 and {two} in member {number}; "
            "fuse experiments that score the same proposals"
        )
        raise InputError("decision fusion", problem, video)
    _check_classes(first, other, number, video)


def _check_classes(first: ProposalScores, other: ProposalScores, number: int, video: str) -> None:
    if first.completeness.shape[1] != other.completeness.shape[1]:
        counts = first.completeness.shape[1], other.completeness.shape[1]
        raise InputError(
            "decision fusion", f"member 1 has {counts[0]} classes, member {number} {counts[1]}", video
        )


def _mean(values: Sequence[NDArray[Any]], weights: NDArray[np.float64] | None) -> NDArray[Any]:
    mean: NDArray[Any] = np.average(np.stack(values), axis=0, weights=weights)
    return mean
