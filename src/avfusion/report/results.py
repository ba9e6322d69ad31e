"""What was measured of each experiment: its evaluations (one per seed) read, checked and averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avfusion.data.streams import is_sound
from avfusion.data.tables import parse_json, read_text
from avfusion.errors import InputError

SILENCE = {"drop": "left out", "zeros": "taken as silent", "mask": "taken as silent, and marked"}


@dataclass(frozen=True)
class ResultRow:
    """One experiment and the files that say how it did.

    Attributes:
        experiment: its name.
        detector: name of the detector (of the first member, where trained detectors are fused).
        streams: all streams that it sees, also those of its members.
        fusion: how they are joined ("concat", "scores"); empty for a single stream.
        evaluations: JSON of `avfusion.evaluation.mean_ap`, by seed.
        reference: published mAP per tIoU in percent, None where none is known.
        note: anything a reader of the figures must know.
        members: experiments whose decisions it fuses; empty for a trained detector.
        control: whether it is one that must fail.
        proposals: where the proposals that it scores come from; empty if it makes its own.
    """

    experiment: str
    detector: str
    streams: Sequence[str]
    fusion: str
    evaluations: Mapping[int, str | Path]
    reference: Sequence[float | None] | None = None
    note: str = ""
    members: Sequence[str] = ()
    control: bool = False
    proposals: str = ""


@dataclass(frozen=True, eq=False)
class Result:
    """A row and what its evaluations say. Shares are in [0, 1]; T thresholds, S seeds, C classes.

    Attributes:
        row: the experiment.
        tiou: the T thresholds.
        seeds: the S seeds.
        mean_ap: float64 (S, T).
        class_ap: float64 (C, T), mean over the seeds, of the classes that have instances.
        labels: names of those C classes.
        protocol: of the first seed; counts that depend on the detections may differ in the others.
    """

    row: ResultRow
    tiou: tuple[float, ...]
    seeds: tuple[int, ...]
    mean_ap: NDArray[np.float64]
    class_ap: NDArray[np.float64]
    labels: tuple[str, ...]
    protocol: Mapping[str, Any] = field(repr=False)

    @property
    def percent(self) -> NDArray[np.float64]:
        """Percent of mAP per tIoU, mean over the seeds, (T,)."""
        return 100 * self.mean_ap.mean(axis=0)

    @property
    def average(self) -> float:
        """Mean of `percent` over the thresholds."""
        return float(self.percent.mean())

    @property
    def spread(self) -> NDArray[np.float64] | None:
        """Standard deviation of mAP over the seeds in percent points, (T,); None with a single seed."""
        return 100 * self.mean_ap.std(axis=0, ddof=1) if len(self.mean_ap) > 1 else None

    @property
    def average_spread(self) -> float | None:
        """Standard deviation over the seeds of the average mAP; None with a single seed."""
        return float(100 * self.mean_ap.mean(axis=1).std(ddof=1)) if len(self.mean_ap) > 1 else None

    @property
    def fused(self) -> bool:
        """Whether several streams take part."""
        return len(self.row.streams) > 1

    def level(self, tiou: float) -> int:
        """Index of the threshold nearest to `tiou`."""
        return int(np.abs(np.subtract(self.tiou, tiou)).argmin())


def tell_of_silence(rows: Sequence[ResultRow], silent: int, videos: int, policy: str) -> list[ResultRow]:
    """The rows; those that listen note how many test videos have no sound, and what became of them.

    Args:
        rows: the experiments.
        silent: number of test videos that can be used and have no sound.
        videos: number of test videos that can be used.
        policy: ``missing_audio`` of the dataset.
    """
    if not silent:
        return list(rows)
    told = f"{silent} of {videos} test videos have no sound: {SILENCE[policy]}"
    return [
        replace(row, note="; ".join(filter(None, (row.note, told))))
        if any(map(is_sound, row.streams))
        else row
        for row in rows
    ]


def load_results(rows: Sequence[ResultRow]) -> list[Result]:
    """Read the evaluations of all rows and check that they can stand in one table.

    Raises:
        InputError: no evaluation, one that cannot be read, other thresholds, or another ground truth.
    """
    if not rows:
        raise InputError("result table", "there are no experiments to report")
    results = [_load(row) for row in rows]
    first = results[0]
    for result in results[1:]:
        _check_same_truth(first, result, _first_path(result.row))
    return results


def protocol_text(results: Sequence[Result]) -> str:
    """One sentence on what all figures were measured on."""
    protocol = results[0].protocol
    subset = f"subset '{protocol['subset']}', " if protocol.get("subset") else ""
    thresholds = ", ".join(f"{tiou:g}" for tiou in results[0].tiou)
    return (
        f"{subset}{protocol['videos']} videos, "
        f"{protocol['instances']} instances of {protocol['classes']} classes; "
        f"mAP at tIoU {thresholds}; time base {protocol['time_base']}; "
        f"interpolation {protocol['interpolation']}; equal scores: {protocol['ties']}"
    )


def _load(row: ResultRow) -> Result:
    if not row.evaluations:
        raise InputError("result table", "has no evaluation", row.experiment)
    seeds = [_read(row, seed, path) for seed, path in row.evaluations.items()]
    first = seeds[0]
    for seed, path in zip(seeds, row.evaluations.values(), strict=True):
        _check_same_truth(first, seed, path)
    if row.reference is not None and len(row.reference) != len(first.tiou):
        problem = f"{len(row.reference)} reference figures for {len(first.tiou)} thresholds"
        raise InputError("result table", problem, row.experiment)
    return Result(
        row,
        first.tiou,
        tuple(row.evaluations),
        np.concatenate([seed.mean_ap for seed in seeds]),
        np.mean([seed.class_ap for seed in seeds], axis=0),
        first.labels,
        first.protocol,
    )


def _first_path(row: ResultRow) -> str | Path:
    return next(iter(row.evaluations.values()))


def _read(row: ResultRow, seed: int, path: str | Path) -> Result:
    value = parse_json(path, read_text(path))
    try:
        tiou = tuple(map(float, value["tiou"]))
        classes = {name: c["AP"] for name, c in value["classes"].items() if c["AP"] is not None}
        class_ap = np.array(list(classes.values()), dtype=np.float64).reshape(len(classes), len(tiou))
        mean_ap = np.array([value["mAP"]], dtype=np.float64).reshape(1, len(tiou))
        protocol = dict(value["protocol"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            path, f"is no evaluation as `avfusion evaluate --json` writes it ({error!r})"
        ) from error
    if not (np.isfinite(mean_ap).all() and np.isfinite(class_ap).all()):
        raise InputError(path, "holds a value that is not finite", "mAP")
    return Result(row, tiou, (seed,), mean_ap, class_ap, tuple(classes), protocol)


def _check_same_truth(first: Result, other: Result, path: str | Path) -> None:
    if other.tiou != first.tiou:
        raise InputError(path, f"measures at {list(other.tiou)}, the others at {list(first.tiou)}", "tiou")
    for name in ("subset", "videos", "instances", "classes"):
        mine, theirs = other.protocol.get(name), first.protocol.get(name)
        if mine != theirs:
            problem = f"is {mine!r}, in {_first_path(first.row)} {theirs!r}: evaluate both the same way"
            raise InputError(path, problem, f"protocol.{name}")
    if other.labels != first.labels:
        raise InputError(path, f"has other classes than {_first_path(first.row)}", "classes")
