"""Miniature datasets: short rendered videos under the names of real ones, and their configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from snakemake_runs import TINY, Scratch

from avfusion.demo.config import DemoConfig
from avfusion.demo.render import render_video
from avfusion.demo.scenes import plan

PICTURE = {"sizes": ((64, 48),), "frame_rates": (10.0,), "instance": (1.5, 2.5)}


def render(path: Path, seconds: float, seed: int) -> bytes:
    """A rendered video of that length; its content is another matter."""
    config = DemoConfig(train_videos=1, test_videos=1, duration=(seconds, seconds), **PICTURE)  # type: ignore[arg-type]
    render_video(next(iter(plan(config, seed).values())), path)
    return path.read_bytes()


def configure(scratch: Scratch, name: str, changes: Mapping[str, Any]) -> Path:
    """Write ``config/datasets/NAME.yaml``: the tiny dataset with random weights, and these `changes`."""
    tiny = yaml.safe_load((TINY / "datasets" / "tiny.yaml").read_text())
    tiny.pop("backbone_training", None)
    for stream in tiny["streams"].values():
        stream["weights"] = "random:0"
    tiny["streams"].pop("flow")
    tiny["detectors"]["muses"]["training"] |= {"epochs": 1, "passes": 1}
    experiments = {"muses-rgb+audio-concat": None}
    path = scratch.folder / "config" / "datasets" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tiny | {"experiments": experiments} | dict(changes), sort_keys=False))
    return path
