"""Made-up features with planted signals, and the small configuration that learns them."""

from typing import Any

import numpy as np

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.data.proposals import Segments, sliding_windows

LABELS = ("jump", "run", "sit")
AXIS = TimeAxis(0.5, 0.5, 1.0)
Features = dict[str, VideoFeatures]
TINY: dict[str, Any] = {
    "detector": "muses",
    "model": {"backbone_dims": [16, 16], "hidden": 32, "dropout": 0.2, "groups": 4},
    "training": {
        **{"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01, "epochs": 12, "passes": 1},
        **{"batch_size": 4, "accumulate": 1, "steps": [9]},
    },
}


def changed(**training: Any) -> dict[str, Any]:
    """`TINY` with other options of training."""
    return TINY | {"training": TINY["training"] | training}


def planted(videos: int, seed: int, subset: str = "train") -> tuple[Features, Annotations]:
    """Noise, on which every class adds a direction of its own for as long as it lasts."""
    rng = np.random.RandomState(seed)
    directions = 2 * np.random.RandomState(7).standard_normal((len(LABELS), 12))
    features, annotations = {}, {}
    for v in range(videos):
        length = rng.randint(70, 90)
        values, centres = rng.standard_normal((length, 12)), AXIS.centres(length)
        instances, time = [], rng.uniform(1, 3)
        while time < length * AXIS.stride - 8:
            duration, label = rng.uniform(2, 6), rng.randint(len(LABELS))
            values[(centres >= time) & (centres < time + duration)] += directions[label]
            instances.append(Instance(time, time + duration, LABELS[label]))
            time += duration + rng.uniform(1.5, 4)
        name = f"{subset}{v}"
        features[name] = VideoFeatures(values.astype(np.float32), AXIS)
        annotations[name] = VideoAnnotation(subset, length * AXIS.stride, tuple(instances))
    return features, Annotations(annotations, LABELS)


def windows(annotations: Annotations) -> dict[str, Segments]:
    """Proposals for every video: windows of several lengths."""
    return {
        name: sliding_windows(video.duration or 0, [2, 2.5, 3, 4, 5, 6], 0.75)
        for name, video in annotations.videos.items()
    }
