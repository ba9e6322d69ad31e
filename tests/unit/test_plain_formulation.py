"""The engine against the plain formulation that benchmarks/training.py times: the same loss curve."""

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from training_data import changed, planted, windows

from avfusion.detectors import build_detector
from avfusion.detectors.base import TOTAL
from avfusion.detectors.muses import Muses
from avfusion.engine.optimise import learning_rate, make_optimiser, set_rate, take_step
from avfusion.engine.schedule import TrainingOptions, draw_order
from avfusion.engine.train import collect_videos, train
from avfusion.seeding import derive

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_training_has_the_loss_curve_of_the_plain_formulation(tmp_path: Path) -> None:
    features, annotations = planted(7, 3)
    proposals = windows(annotations)
    options = {"optimizer": "sgd", "lr": 0.01, "batch_size": 1, "accumulate": 4, "passes": 3, "epochs": 5}
    config = changed(**options, steps=(3,), weight_decay=5e-4)
    config["model"] = config["model"] | {"dropout": 0.0, "groups": 1}
    train(config, features, proposals, annotations, 0, tmp_path / "c.pt", tmp_path / "log.csv", "cpu")
    with (tmp_path / "log.csv").open() as file:
        engine = [float(row["total"]) for row in csv.DictReader(file)]

    plain_losses = load("plain_muses").losses
    chosen = TrainingOptions(**config["training"])
    torch.manual_seed(derive(0, "network"))
    detector = build_detector("muses", config["model"], [12], 3)
    assert isinstance(detector, Muses)
    examples = detector.training_set(collect_videos(features, proposals, annotations))
    rng, optimiser = np.random.RandomState(derive(0, "samples")), make_optimiser(detector, chosen)
    plain = []
    for epoch in range(chosen.epochs):
        set_rate(optimiser, learning_rate(chosen, epoch))
        curve = []
        for index, video in enumerate(draw_order(len(examples), chosen, rng)):
            loss = plain_losses(detector, examples.draw(int(video), rng))[TOTAL]
            (loss / chosen.accumulate).backward()
            curve.append(loss.item())
            if (index + 1) % chosen.accumulate == 0:
                take_step(detector, optimiser, chosen)
        optimiser.zero_grad()
        plain.append(float(np.mean(curve)))
    assert engine == pytest.approx(plain, rel=1e-5)
    assert engine[-1] < 0.9 * engine[0]
