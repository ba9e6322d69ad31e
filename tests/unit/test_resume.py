"""A training that is stopped and started again ends as if it had never been stopped."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_data import Features, changed, planted, windows

from avfusion.data.annotations import Annotations
from avfusion.detectors.muses import Muses
from avfusion.engine import loop
from avfusion.engine.train import train

DATA = planted(6, 1)
# two batches make a step, an epoch has 9: one is left over
CONFIG = changed(epochs=3, passes=3, batch_size=2, accumulate=2, at_once=1, steps=[1])


class StoppedError(Exception):
    """What stops a training here."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(
    folder: Path,
    config: dict[str, Any] = CONFIG,
    data: tuple[Features, Annotations] = DATA,
    seed: int = 0,
    every: float = 0,
) -> bytes:
    features, annotations = data
    train(
        *(config, features, windows(annotations), annotations, seed),
        *(folder / "checkpoint.pt", folder / "log.csv", "cpu", folder / "state"),
        save_every=every,
    )
    return (folder / "checkpoint.pt").read_bytes()


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the training break down in its `call`-th pass from now, once, when its gradients are there."""
    original, calls = loop._learn, []

    def learn(*arguments: Any) -> None:
        original(*arguments)
        calls.append(None)
        if len(calls) == call:
            raise StoppedError

    monkeypatch.setattr(loop, "_learn", learn)


def losses(folder: Path) -> list[list[str]]:
    """The log without its last column, the seconds."""
    return [line.split(",")[:-1] for line in (folder / "log.csv").read_text().splitlines()]


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        changed(epochs=3, passes=3, batch_size=2, accumulate=2, optimizer="sgd", lr=1e-3, step_at="first"),
        changed(epochs=3, passes=3, batch_size=2, optimizer="adam", standardise=True),
        {
            "detector": "pgcn",
            "model": {"hidden": 8, "graph": {"children": 2}},
            "training": {"epochs": 3, "passes": 2, "batch_size": 2, "precision": "auto"},
        },
        {
            "detector": "gtad",
            "model": {
                **{"temporal_scale": 32, "max_duration": 8, "inner_slots": 2, "context_slots": 2},
                **{"hidden_1d": 16, "hidden_2d": 8, "hidden_3d": 8, "groups": 4},
            },
            "training": {"epochs": 2, "passes": 2, "batch_size": 6},
        },
    ],
    ids=["muses", "muses-first", "muses-adam", "pgcn", "gtad"],
)
def test_stopped_at_any_time_and_taken_up_again_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    wanted = run(tmp_path / "straight", config)
    assert {path.name for path in (tmp_path / "straight").iterdir()} == {"checkpoint.pt", "log.csv"}
    for stops in ([1], [2], [4], [10], [10, 1, 3]):
        folder = tmp_path / "-".join(map(str, stops))
        for stop in stops:
            with monkeypatch.context() as patch, pytest.raises(StoppedError):
                stop_at(patch, stop)
                run(folder, config)
            assert not (folder / "checkpoint.pt").exists()
        torch.manual_seed(sum(stops))
        assert run(folder, config) == wanted, stops
        assert losses(folder) == losses(tmp_path / "straight")
        assert not (folder / "state").exists()


def test_saving_changes_nothing(tmp_path: Path) -> None:
    assert run(tmp_path / "a", every=0) == run(tmp_path / "b", every=3600)


def test_what_was_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        stop_at(patch, 24)  # the sixth pass of the last epoch, in which 4 are behind a step
        run(tmp_path)
    passes, original = [], Muses.training_steps

    def counted(self: Muses, batches: Any) -> Any:
        passes.append(len(batches))
        return original(self, batches)

    monkeypatch.setattr(Muses, "training_steps", counted)
    with caplog.at_level(logging.INFO, "avfusion"):
        run(tmp_path)
    assert passes == [1] * 5
    assert f"going on with epoch 2 of the training in {tmp_path / 'state'}" in caplog.text


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import test_resume as t, pytest, os, signal\n"
        "t.torch.set_num_threads(1)\n"
        "original, calls = t.Muses.training_steps, []\n"
        "def step(self, batches):\n"
        "    calls.append(0)\n"
        "    if len(calls) == 12: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, batches)\n"
        "t.Muses.training_steps = step\n"
        "t.run(Path(sys.argv[1]))\n"
    )
    folders = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONPATH": folders, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "killed")], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["state"]
    assert run(tmp_path / "killed") == run(tmp_path / "straight")


def moved(data: tuple[Features, Annotations], name: str) -> tuple[Features, Annotations]:
    """The data with one value of one video changed."""
    features = dict(data[0])
    values = features[name].values.copy()
    values[5, 3] += np.float32(1e-3)
    features[name] = type(features[name])(values, features[name].axis)
    return features, data[1]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"config": CONFIG | {"training": CONFIG["training"] | {"lr": 0.002}}},
        {"config": CONFIG | {"model": CONFIG["model"] | {"dropout": 0.1}}},
        {"data": moved(DATA, "train4")},
    ],
    ids=["seed", "training", "model", "features"],
)
def test_the_state_of_another_training_is_ignored_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, other: dict[str, Any]
) -> None:
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        stop_at(patch, 12)
        run(tmp_path)
    with caplog.at_level(logging.WARNING, "avfusion"):
        got = run(tmp_path, **other)
    assert got == run(tmp_path / "straight", **other)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'state'} is ignored, training begins at the beginning: it is of a training with other "
        "options, seed, data or code"
    ]


@pytest.mark.parametrize("content", [b"", b"nonsense", {"texts": 3}, {"model": {}}, [1]])
def test_a_damaged_state_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: object
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "state").write_bytes(content)
    else:
        torch.save(content, tmp_path / "state")
    with caplog.at_level(logging.WARNING, "avfusion"):
        assert run(tmp_path) == run(tmp_path / "straight")
    assert caplog.text.count("is ignored, training begins at the beginning: ") == 1
