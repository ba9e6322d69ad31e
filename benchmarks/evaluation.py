"""Prints what `avfusion evaluate` costs on the released THUMOS14 detections, start of the process included.

    python benchmarks/evaluation.py [--shared FOLDER]

Beside it: the same protocol row by row in Python and NumPy, measured here, and the time of the ActivityNet
toolkit as FOLDER/golden/evaluation/timing.json recorded it on two cores (the toolkit itself is not at hand).
"""

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from harness import median_seconds, print_table, ratio, seconds
from numpy.typing import NDArray

TIOU = (0.3, 0.4, 0.5, 0.6, 0.7)
Key = tuple[str, str]  # label and video


def run_command(detections: Path, annotations: Path) -> float:
    """Average mAP in per cent, as the command prints it, in a process of its own."""
    command = [sys.executable, "-m", "avfusion", "evaluate", str(detections)]
    command += ["--annotations", str(annotations), "--subset", "test"]
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    line = next(line for line in printed.stdout.splitlines() if line.startswith("mAP"))
    return float(line.split()[-1])


def row_by_row(detections: Path, annotations: Path) -> float:
    """The same figure with a loop over the detections of every class, reading included."""
    truth: dict[Key, list[list[float]]] = defaultdict(list)
    with (annotations / "test_Annotation.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["type"] != "Ambiguous":
                truth[row["type"], row["video"]].append([float(row["start"]), float(row["end"])])
    found: dict[str, list[tuple[float, str, float, float]]] = defaultdict(list)
    with gzip.open(detections, "rt", newline="") as file:
        for row in csv.DictReader(file):
            found[row["label"]].append(
                (float(row["score"]), row["video_id"], float(row["start"]), float(row["end"]))
            )
    arrays = {key: np.array(segments) for key, segments in truth.items()}
    labels = sorted({label for label, _ in arrays})
    return 100 * float(np.mean([_class_ap(label, found[label], arrays) for label in labels]))


def _class_ap(label: str, rows: list[tuple[float, str, float, float]], truth: dict[Key, Any]) -> float:
    """Mean over the thresholds of the average precision of one class."""
    mine = {video: segments for (name, video), segments in truth.items() if name == label}
    free = {video: np.ones((len(TIOU), len(segments)), dtype=bool) for video, segments in mine.items()}
    rows = sorted(rows, key=lambda row: -row[0])
    hits = np.zeros((len(TIOU), len(rows)), dtype=bool)
    for i, (_, video, start, end) in enumerate(rows):
        if video not in mine:
            continue
        overlap = _tiou(start, end, mine[video])
        for t, threshold in enumerate(TIOU):
            for j in np.argsort(overlap)[::-1]:
                if overlap[j] < threshold:
                    break
                if free[video][t, j]:
                    hits[t, i], free[video][t, j] = True, False
                    break
    precision = hits.cumsum(1) / np.arange(1, len(rows) + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    return float((envelope * hits).sum(1).mean() / sum(map(len, mine.values())))


def _tiou(start: float, end: float, segments: NDArray[np.float64]) -> NDArray[np.float64]:
    shared = np.maximum(0, np.minimum(end, segments[:, 1]) - np.maximum(start, segments[:, 0]))
    return np.asarray(shared / (end - start + segments[:, 1] - segments[:, 0] - shared))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("AVFUSION_SHARED", "../shared")
    parser.add_argument("--shared", type=Path, default=Path(shared), help="folder with thumos14/ and golden/")
    folder = parser.parse_args().shared
    paths = folder / "thumos14" / "tal-hmo-detections.csv.gz", folder / "thumos14" / "annotations"
    if not paths[0].is_file():
        print(f"left out: there is no {paths[0]}; name its folder with --shared or AVFUSION_SHARED")
        return
    mine, plain = run_command(*paths), row_by_row(*paths)
    if abs(mine - plain) > 0.01:
        raise RuntimeError(f"avfusion evaluate finds {mine:.2f} % mAP, row by row it is {plain:.2f} %")
    fast = median_seconds(lambda: run_command(*paths), repeat=7)
    slow = median_seconds(lambda: row_by_row(*paths), repeat=3, warm_up=0)
    recorded = json.loads((folder / "golden" / "evaluation" / "timing.json").read_text())["seconds"]
    rows = [["row by row in Python, without start", seconds(slow), seconds(fast), ratio(slow, fast)]]
    for processes in (1, 2):
        name = f"anet_toolkit_one_pass_5_ious_{processes}_process" + ("es" if processes > 1 else "")
        toolkit = float(np.mean(recorded[name]))
        case = f"ActivityNet toolkit, {processes} process{'es' if processes > 1 else ''} (as recorded)"
        rows.append([case, seconds(toolkit), seconds(fast), ratio(toolkit, fast)])
    title = f"avfusion evaluate, 87,285 detections, {len(TIOU)} tIoUs, {mine:.2f} % mAP (medians)"
    print_table(title, ["compared with", "that", "avfusion", "ratio"], rows)


if __name__ == "__main__":
    main()
