"""Which fusion helped: every experiment that joins streams against the ones that it ought to beat.

Two measures of chance stand beside each difference: how it spreads over the seeds (training), and the
interval of a paired bootstrap over the test videos (which videos there happen to be).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avfusion.data.annotations import Annotations
from avfusion.data.detections import Detections
from avfusion.data.streams import SOUND, is_sound
from avfusion.evaluation.bootstrap import Difference, paired_bootstrap
from avfusion.evaluation.mean_ap import match
from avfusion.report.results import Result


@dataclass(frozen=True, eq=False)
class Comparison:
    """One experiment against another, average mAP over the thresholds, in percent points.

    Attributes:
        one: the experiment that joins more.
        other: what it is compared with.
        question: what the comparison answers: `SOUND_HELPS`, `SCHEME_HELPS` or `DECISION_HELPS`.
        seeds: difference per seed that both ran with, (S,).
        videos: bootstrap over the test videos, on the detections of the first seed; shares of 1.
    """

    one: Result
    other: Result
    question: str
    seeds: np.ndarray
    videos: Difference

    @property
    def mean(self) -> float:
        """Mean difference over the seeds."""
        return float(self.seeds.mean())

    @property
    def spread(self) -> float | None:
        """Standard deviation of the difference over the seeds; None with a single one."""
        return float(self.seeds.std(ddof=1)) if len(self.seeds) > 1 else None

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` if neither videos nor seeds leave a doubt, else ``no clear difference``."""
        if not self.videos.certain or np.sign(self.mean) != np.sign(self.videos.mean):
            return UNCLEAR
        if self.spread is not None and abs(self.mean) <= self.spread:
            return UNCLEAR
        return "better" if self.mean > 0 else "worse"


UNCLEAR = "no clear difference"
SOUND_HELPS = "than the same detector without sound"
SCHEME_HELPS = "than plain concatenation"
DECISION_HELPS = "than the best experiment that it is made of"
QUESTIONS = (SOUND_HELPS, SCHEME_HELPS, DECISION_HELPS)


def pairs(results: Sequence[Result]) -> Iterator[tuple[Result, Result, str]]:
    """Experiments that are worth comparing: one, the other, and what is asked."""
    by_name = {result.row.experiment: result for result in results}
    for one in results:
        if one.row.members:
            there = [by_name[member] for member in one.row.members if member in by_name]
            if there:
                yield one, max(there, key=lambda result: result.average), DECISION_HELPS
            continue
        if not any(map(is_sound, one.row.streams)) or one.row.control:
            continue
        for other in results:
            alike = (other.row.detector, other.row.proposals) == (one.row.detector, one.row.proposals)
            if not alike or other.row.members or other.row.control:
                continue
            if _kinds(other) == _kinds(one) - {SOUND}:
                yield one, other, SOUND_HELPS
            elif _kinds(other) == _kinds(one) and other.row.fusion == "concat" != one.row.fusion:
                yield one, other, SCHEME_HELPS


def compare(
    results: Sequence[Result], detections: Mapping[str, Detections], annotations: Annotations
) -> list[Comparison]:
    """All comparisons, by question.

    Args:
        results: rows of the table.
        detections: of the first seed of every experiment, by its name.
        annotations: of the subset that was evaluated.
    """
    wanted = sorted(pairs(results), key=lambda pair: QUESTIONS.index(pair[2]))
    tiou = results[0].tiou
    names = dict.fromkeys(result.row.experiment for pair in wanted for result in pair[:2])
    matched = {name: match(detections[name], annotations, tiou) for name in names}
    videos = len(annotations.videos)
    found = []
    for one, other, question in wanted:
        common = [seed for seed in one.seeds if seed in other.seeds]
        if not common:
            continue
        ours, theirs = (r.mean_ap[[r.seeds.index(seed) for seed in common]] for r in (one, other))
        seeds = 100 * (ours - theirs).mean(axis=1)
        sure = paired_bootstrap(matched[one.row.experiment], matched[other.row.experiment], videos)
        found.append(Comparison(one, other, question, seeds, sure))
    return found


def statement(comparisons: Sequence[Comparison]) -> str:
    """What was found, in a sentence per question."""
    sentences = []
    for question in dict.fromkeys(comparison.question for comparison in comparisons):
        asked = [comparison for comparison in comparisons if comparison.question == question]
        by_verdict = {
            verdict: [c.one.row.experiment for c in asked if c.verdict == verdict]
            for verdict in ("better", "worse", UNCLEAR)
        }
        parts = [f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items() if names]
        sentences.append(f"{question[0].upper()}{question[1:]}, {'; '.join(parts)}.")
    return " ".join(sentences)


def _kinds(result: Result) -> set[str]:
    return {SOUND if is_sound(stream) else stream for stream in result.row.streams}
