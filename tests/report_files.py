"""A small evaluated dataset, from which the tests of table and report are made."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation, write_annotations
from avfusion.data.detections import Detections, write_detections
from avfusion.evaluation.mean_ap import evaluate
from avfusion.files import write_json
from avfusion.report.results import ResultRow

TIOU = (0.3, 0.5, 0.7)
LABELS = ("clap", "hop")


@dataclass(frozen=True)
class Files:
    """Paths of what a report is made from."""

    annotations: Path
    rows: list[ResultRow]
    detections: dict[str, Path]


def annotations() -> Annotations:
    """Two test videos with three instances, a video without any, and a training video."""
    return Annotations(
        {
            "b": VideoAnnotation("test", 20.0, (Instance(2, 6, "clap"), Instance(10, 14, "hop"))),
            "a": VideoAnnotation("test", 20.0, (Instance(5, 9, "hop"),)),
            "empty": VideoAnnotation("test", 20.0),
            "t": VideoAnnotation("train", 20.0, (Instance(1, 2, "clap"),)),
        },
        LABELS,
    )


def detections(rows: list[tuple[str, str, float, float, float]]) -> Detections:
    """Detections from rows of video, label, start, end, score."""
    videos = tuple(dict.fromkeys(row[0] for row in rows))
    video = np.array([videos.index(row[0]) for row in rows], dtype=np.int64)
    label = np.array([LABELS.index(row[1]) for row in rows], dtype=np.int64)
    start, end, score = np.array([row[2:] for row in rows], dtype=np.float64).reshape(-1, 3).T
    return Detections(videos, LABELS, video, label, start, end, score)


GOOD = [("b", "clap", 2.0, 6.0, 0.9), ("b", "hop", 10.0, 14.0, 0.8), ("a", "hop", 5.0, 9.0, 0.7)]
POOR = [("b", "hop", 2.0, 6.0, 0.9), ("b", "hop", 10.0, 14.0, 0.8), ("a", "hop", 5.0, 7.4, 0.7)]


def write_files(folder: Path, **experiments: list[list[tuple[str, str, float, float, float]]]) -> Files:
    """Write everything for experiments given as detections per seed; "_" in a name stands for "+"."""
    truth = annotations()
    write_annotations(folder / "annotations.json", truth)
    rows, paths = [], {}
    for key, seeds in experiments.items():
        streams = key.split("_")
        name = "muses-" + "+".join(streams)
        evaluations = {}
        for seed, found in enumerate(seeds):
            evaluations[seed] = folder / "evaluation" / name / f"seed{seed}.json"
            write_json(evaluations[seed], evaluate(detections(found), truth.subset("test"), TIOU).to_json())
        paths[name] = folder / "detections" / f"{name}.json"
        write_detections(paths[name], detections(seeds[0]))
        rows.append(ResultRow(name, "muses", streams, "concat" if len(streams) > 1 else "", evaluations))
    return Files(folder / "annotations.json", rows, paths)
