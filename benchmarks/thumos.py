"""Random training data of THUMOS14's size: real lengths and instances where the shared data is."""

import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.data.proposals import Segments

FPS = 30.0
VIDEOS = 200
LOG_FRAMES = (8.34, 0.90)  # mean and deviation of the log of the number of frames of the 200 videos
PROPOSALS = 300
SCALE = 0.3  # of the features


class Data(NamedTuple):
    """What `avfusion.engine.train.train` takes, and a sentence that says where it comes from."""

    features: dict[str, VideoFeatures]
    proposals: dict[str, Segments]
    annotations: Annotations
    origin: str


def make(channels: int, frames_per_snippet: int, videos: int = VIDEOS) -> Data:
    """Noise as features of the first `videos` videos, a snippet every `frames_per_snippet` frames.

    Features are not negative and of about the size of I3D's, so that the published learning rates suit them.
    Proposals: 300 per video; half of them instances with their centre moved by 0.3 lengths and their length
    changed by a factor of e^0.5 (standard deviations), half anywhere, 1 to 32 s long (uniform in the log).
    """
    rng = np.random.RandomState(0)
    shared = os.environ.get("AVFUSION_SHARED")
    seconds, fps, instances, origin = _published(Path(shared)) if shared else _alike(rng)
    labels = tuple(sorted({instance.label for video in instances.values() for instance in video}))
    features, proposals, annotations = {}, {}, {}
    for name in list(seconds)[:videos]:
        stride = frames_per_snippet / fps[name]
        values = SCALE * np.abs(rng.standard_normal((int(seconds[name] / stride), channels)))
        features[name] = VideoFeatures(
            values.astype(np.float32), TimeAxis(stride / 2, stride, 64 / fps[name])
        )
        annotations[name] = VideoAnnotation("train", seconds[name], tuple(instances[name]))
        proposals[name] = _proposals(instances[name], seconds[name], rng)
    return Data(features, proposals, Annotations(annotations, labels), origin)


Lengths = tuple[dict[str, float], dict[str, float], dict[str, list[Instance]], str]


def _published(shared: Path) -> Lengths:
    """Seconds, frames per second and instances by video, and where they come from."""
    folder = shared / "thumos14" / "annotations"
    with (folder / "val_video_info.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    fps = {row["video"]: float(row["fps"]) for row in rows}
    seconds = {row["video"]: float(row["count"]) / fps[row["video"]] for row in rows}
    instances: dict[str, list[Instance]] = {name: [] for name in seconds}
    with (folder / "val_Annotation.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            start, end = float(row["start"]), min(float(row["end"]), seconds[row["video"]])
            if row["type"] != "Ambiguous" and end > start:
                instances[row["video"]].append(Instance(start, end, row["type"]))
    return seconds, fps, instances, "lengths and instances of THUMOS14's validation videos, random features"


def _alike(rng: np.random.RandomState) -> Lengths:
    seconds, instances = {}, {}
    for v in range(VIDEOS):
        name = f"video{v}"
        seconds[name] = float(np.exp(rng.normal(*LOG_FRAMES)).clip(400, 36000)) / FPS
        starts = rng.uniform(0, seconds[name] - 8, 15)
        instances[name] = [Instance(s, s + rng.uniform(1, 8), f"class{v % 20}") for s in starts]
    return (
        seconds,
        dict.fromkeys(seconds, FPS),
        instances,
        "lengths, instances and features random, distributed like THUMOS14's",
    )


def _proposals(instances: list[Instance], seconds: float, rng: np.random.RandomState) -> Segments:
    near = [instances[i] for i in rng.randint(0, len(instances), PROPOSALS // 2)]
    bounds = np.array([(instance.start, instance.end) for instance in near])
    length = np.concatenate(
        [
            (bounds[:, 1] - bounds[:, 0]) * np.exp(rng.normal(0, 0.5, len(bounds))),
            np.exp(rng.uniform(0, np.log(32), PROPOSALS // 2)),
        ]
    )
    centre = np.concatenate(
        [
            bounds.mean(1) + rng.normal(0, 0.3, len(bounds)) * (bounds[:, 1] - bounds[:, 0]),
            rng.uniform(0, seconds, PROPOSALS // 2),
        ]
    )
    table = np.stack([centre - length / 2, centre + length / 2], 1).clip(0, seconds)
    return table[table[:, 1] - table[:, 0] > 0.1]
