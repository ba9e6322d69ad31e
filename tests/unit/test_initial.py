"""Training that begins from a checkpoint in place of random weights."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_data import LABELS, TINY, Features, changed, planted, windows

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.data.features import VideoFeatures
from avfusion.engine import loop
from avfusion.engine.checkpoint import read_checkpoint
from avfusion.engine.train import train
from avfusion.errors import AvfusionError, InputError
from avfusion.files import sha256

Data = tuple[Features, Annotations]
STILL = {"lr": 1e-30, "epochs": 1, "steps": [9]}  # too small a step to change a float32


@pytest.fixture(scope="module")
def data() -> Data:
    return planted(6, 1)


@pytest.fixture(scope="module")
def trained(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("trained") / "first.pt", data, changed(epochs=6))


def run(out: Path, data: Data, config: dict[str, Any], initial: Path | None = None, **options: Any) -> Path:
    features, annotations = data
    proposals = windows(annotations) if config["detector"] != "gtad" else {}
    log = out.with_suffix(".csv")
    train(config, features, proposals, annotations, 0, out, log, "cpu", initial_path=initial, **options)
    return out


def losses(checkpoint: Path) -> list[float]:
    with checkpoint.with_suffix(".csv").open() as file:
        return [float(row["total"]) for row in csv.DictReader(file)]


def test_it_begins_where_the_checkpoint_ends(tmp_path: Path, data: Data, trained: Path) -> None:
    scratch = run(tmp_path / "scratch.pt", data, changed(**STILL))
    begun = run(tmp_path / "begun.pt", data, changed(**STILL), trained)
    first, ours, random = (read_checkpoint(path) for path in (trained, begun, scratch))
    for name, value in first.state_dict.items():
        assert torch.equal(ours.state_dict[name], value), name
    assert any(not torch.equal(random.state_dict[name], value) for name, value in first.state_dict.items())
    assert losses(begun)[0] < 0.7 * losses(scratch)[0]
    assert ours.config["initial"] == f"sha256:{sha256(trained)}"
    assert "initial" not in random.config


def test_it_goes_on_learning(tmp_path: Path, data: Data, trained: Path) -> None:
    begun = run(tmp_path / "begun.pt", data, changed(epochs=4), trained)
    assert losses(begun)[-1] < losses(trained)[-1]
    assert sha256(run(tmp_path / "again.pt", data, changed(epochs=4), trained)) == sha256(begun)


def test_features_are_standardised_as_they_were(tmp_path: Path, data: Data, trained: Path) -> None:
    features, annotations = data
    first = run(tmp_path / "first.pt", data, changed(epochs=1, standardise=True))
    moved = {name: VideoFeatures(2 * value.values + 1, value.axis) for name, value in features.items()}
    begun = run(tmp_path / "begun.pt", (moved, annotations), changed(standardise=True, **STILL), first)
    for name in ("feature_mean", "feature_deviation"):
        assert torch.equal(read_checkpoint(begun).statistics[name], read_checkpoint(first).statistics[name])
    with pytest.raises(InputError, match=r"first\.pt: was trained on features that were not standardised"):
        run(tmp_path / "x.pt", data, changed(standardise=True), trained)
    with pytest.raises(InputError, match=r"first\.pt: was trained on features that were standardised"):
        run(tmp_path / "x.pt", data, changed(), first)


def other_classes(count: int) -> Data:
    """Videos with instances of `count` classes of other names."""
    features, annotations = planted(6, 3)
    labels = tuple(f"other{k}" for k in range(count))
    videos = {}
    for name, video in annotations.videos.items():
        instances = [Instance(i.start, i.end, labels[LABELS.index(i.label) % count]) for i in video.instances]
        videos[name] = VideoAnnotation("train", video.duration, tuple(instances))
    return features, Annotations(videos, labels)


def test_other_classes(tmp_path: Path, trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="avfusion"):
        run(tmp_path / "a.pt", other_classes(len(LABELS)), changed(epochs=1), trained)
    assert f"training begins from a checkpoint of other classes ({trained})" in caplog.text
    known, wanted = len(LABELS), len(LABELS) - 1
    shape = rf"has \S+ of shape \({known + 1}, \d+\), and \({known}, \d+\) is wanted"
    told = rf"{shape} \(\d+ more parameters do not fit\): it knows {known} classes, and {wanted} are wanted"
    with pytest.raises(InputError, match=rf"first\.pt: initial: {told}"):
        run(tmp_path / "b.pt", other_classes(wanted), changed(epochs=1), trained)
    assert not (tmp_path / "b.pt").exists()


def test_what_does_not_fit(tmp_path: Path, data: Data, trained: Path) -> None:
    features, annotations = data
    wide = {name: VideoFeatures(np.tile(value.values, 2), value.axis) for name, value in features.items()}
    with pytest.raises(
        InputError, match=r"first\.pt: widths: was trained on features of 12 channels, these have 24"
    ):
        run(tmp_path / "x.pt", (wide, annotations), TINY, trained)
    with pytest.raises(InputError, match=r"first\.pt: is of 'muses', and 'gtad' is to be trained"):
        run(tmp_path / "x.pt", data, {"detector": "gtad"}, trained)
    bigger = TINY | {"model": TINY["model"] | {"hidden": 64}}
    with pytest.raises(InputError, match=r"first\.pt: initial: has \S+ of shape .*: its options differ"):
        run(tmp_path / "x.pt", data, bigger, trained)
    with pytest.raises(InputError, match=r"nothing\.pt: initial: does not exist"):
        run(tmp_path / "x.pt", data, TINY, tmp_path / "nothing.pt")
    torch.save({"state_dict": {}}, tmp_path / "released.pt")
    with pytest.raises(InputError, match=r"released\.pt: is no checkpoint of avfusion"):
        run(tmp_path / "x.pt", data, TINY, tmp_path / "released.pt")


def test_only_what_began_there_goes_on(
    tmp_path: Path,
    data: Data,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The state of an unfinished training belongs to the checkpoint that it began from."""
    config, state = changed(epochs=2), tmp_path / "unfinished.pt"
    whole = sha256(run(tmp_path / "whole.pt", data, config, trained))
    for initial, told in ((None, "other options, seed, data or code"), (trained, "going on with epoch")):
        with monkeypatch.context() as patch, pytest.raises(AvfusionError, match="stopped"):
            stop_at_third_pass(patch)
            run(tmp_path / "x.pt", data, config, initial, resume_path=state, save_every=0)
        assert state.exists()
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="avfusion"):
            begun = run(tmp_path / "b.pt", data, config, trained, resume_path=state, save_every=0)
        assert told in caplog.text
        assert sha256(begun) == whole


def stop_at_third_pass(patch: pytest.MonkeyPatch) -> None:
    real, calls = loop._learn, []

    def learn(*arguments: Any) -> None:
        calls.append(None)
        if len(calls) == 3:
            raise AvfusionError("stopped")
        real(*arguments)

    patch.setattr(loop, "_learn", learn)
