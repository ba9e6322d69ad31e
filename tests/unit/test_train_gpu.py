"""Training on CUDA: as on the CPU, without waiting for the device, and in bfloat16."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_data import changed, planted, windows

from avfusion.detectors import build_detector
from avfusion.detectors.base import TOTAL
from avfusion.detectors.packing import FeatureBank
from avfusion.engine.predict import predict
from avfusion.engine.train import collect_videos, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DATA = planted(12, 1)


def run(folder: Path, device: str, **training: Any) -> list[float]:
    """Train without dropout, whose random numbers differ between devices; the total loss of every epoch."""
    features, annotations = DATA
    config = changed(**training)
    config["model"] = config["model"] | {"dropout": 0.0}
    train(
        *(config, features, windows(annotations), annotations, 0),
        *(folder / f"{device}.pt", folder / f"{device}.csv", device),
    )
    with (folder / f"{device}.csv").open() as file:
        return [float(row["total"]) for row in csv.DictReader(file)]


@contextmanager
def no_waiting() -> Iterator[None]:
    """An error wherever the host waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_losses_and_predictions_are_those_of_the_cpu(tmp_path: Path) -> None:
    options = {"epochs": 2, "precision": "float32", "optimizer": "sgd", "lr": 1e-3, "steps": []}
    here, there = (run(tmp_path, device, **options) for device in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=1e-4)
    features, annotations = DATA
    said = [
        predict(tmp_path / "cpu.pt", features, windows(annotations), device) for device in ("cpu", "cuda")
    ]
    for name in features:
        np.testing.assert_allclose(said[0][name].activity, said[1][name].activity, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_does_not_wait_for_the_device(precision: str) -> None:
    features, annotations = DATA
    videos = collect_videos(features, windows(annotations), annotations)
    model = changed()["model"]
    detector = build_detector("muses", model, [12], 3).cuda().train()
    examples, rng = detector.training_set(videos), np.random.RandomState(0)

    def step() -> None:
        batches = [examples.draw_many([k, k + 1], rng) for k in range(4)]
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            losses = detector.training_steps(batches)
        losses[TOTAL].sum().backward()

    step()  # what is built and cached once may wait
    with no_waiting():
        step()


def test_bfloat16_learns_as_well(tmp_path: Path) -> None:
    exact, rough = (run(tmp_path, "cuda", precision=precision) for precision in ("float32", "bfloat16"))
    assert rough[-1] < 0.5 * rough[0]
    assert rough[-1] == pytest.approx(exact[-1], rel=0.2)


def test_features_that_do_not_fit_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.RandomState(0).standard_normal((50, 4)).astype(np.float32)
    there = FeatureBank([values], torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *arguments: (100, 100))
    here = FeatureBank([values], torch.device("cuda"))
    rows = np.array([3, 50, 7])
    assert there.gather(rows).is_cuda and here.gather(rows).is_cuda
    assert torch.equal(there.gather(rows), here.gather(rows))
    assert here.gather(rows)[1].abs().sum().item() == 0
