"""Decision fusion: several detectors' scores of the same proposals as one.

Source: score files given with ``--score_weights`` to ``eval.py`` of the MUSES code, where two streams are
merged as rgb : flow = 1 : 1.2. What differs: members whose proposals differ are refused.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avfusion.data.scores import ProposalScores, read_scores, write_scores
from avfusion.errors import InputError

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
    merged = {
        name: _mean([getattr(member, name) for member in members], factors)
        for name in ("activity", "completeness", "regression")
    }
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
    files = [read_scores(path) for path in paths]
    for path, (_, labels) in zip(paths, files, strict=True):
        if labels != files[0][1]:
            raise InputError(path, f"has other classes than {paths[0]}", "labels")
    write_scores(out_path, merge_videos([scores for scores, _ in files], weights), files[0][1])


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
    if first.completeness.shape != other.completeness.shape:
        counts = first.completeness.shape[1], other.completeness.shape[1]
        raise InputError(
            "decision fusion", f"member 1 has {counts[0]} classes, member {number} {counts[1]}", video
        )


def _mean(values: Sequence[NDArray[Any]], weights: NDArray[np.float64] | None) -> NDArray[Any]:
    mean: NDArray[Any] = np.average(np.stack(values), axis=0, weights=weights)
    return mean
