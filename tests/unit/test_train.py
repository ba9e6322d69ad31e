"""Training, checkpoints and prediction on made-up features with planted signals."""

import csv
import io
import logging
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from training_data import AXIS, LABELS, TINY, Features, changed, planted, windows

from avfusion.data.annotations import Annotations, VideoAnnotation
from avfusion.data.features import VideoFeatures
from avfusion.data.proposals import RankedProposals
from avfusion.detectors import DETECTORS
from avfusion.detectors.base import Detector, TrainingSet, Video
from avfusion.engine.checkpoint import read_checkpoint
from avfusion.engine.control import shuffle_labels
from avfusion.engine.postprocess import detections_from_scores
from avfusion.engine.predict import predict, propose
from avfusion.engine.train import train
from avfusion.errors import AvfusionError, InputError
from avfusion.evaluation.mean_ap import evaluate
from avfusion.files import sha256


@pytest.fixture(scope="module")
def train_data() -> tuple[Features, Annotations]:
    return planted(12, 1)


def mean_ap(checkpoint: Path) -> float:
    features, annotations = planted(8, 2, "test")
    scores = predict(checkpoint, features, windows(annotations))
    durations = {name: video.duration or 0.0 for name, video in annotations.videos.items()}
    found = detections_from_scores(scores, LABELS, durations)
    return float(evaluate(found, annotations, [0.5]).map[0])


def run(
    folder: Path, data: tuple[Features, Annotations], config: dict[str, Any] = TINY, seed: int = 0
) -> Path:
    features, annotations = data
    checkpoint = folder / "checkpoint.pt"
    train(config, features, windows(annotations), annotations, seed, checkpoint, folder / "log.csv", "cpu")
    return checkpoint


def test_planted_actions_are_found_and_shuffled_ones_are_not(
    tmp_path: Path, train_data: tuple[Features, Annotations]
) -> None:
    assert mean_ap(run(tmp_path, train_data)) > 0.75
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert len(rows) == 12
    assert list(rows[0]) == ["epoch", "lr", "activity", "completeness", "regression", "total", "seconds"]
    assert float(rows[-1]["total"]) < 0.5 * float(rows[0]["total"])
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.003] * 9 + [0.0003] * 3)

    features, annotations = train_data
    control = run(tmp_path, (features, shuffle_labels(annotations, seed=5)))
    assert mean_ap(control) < 0.25


def test_windows_of_the_videos_teach_as_well(
    tmp_path: Path, train_data: tuple[Features, Annotations]
) -> None:
    assert all(len(features.values) > 40 for features in train_data[0].values())
    assert mean_ap(run(tmp_path, train_data, changed(window=40))) > 0.75


def test_one_seed_gives_one_checkpoint(tmp_path: Path, train_data: tuple[Features, Annotations]) -> None:
    config = changed(epochs=2, standardise=True)
    torch.manual_seed(1)
    first = sha256(run(tmp_path / "a", train_data, config))
    torch.manual_seed(2)
    state, global_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    assert sha256(run(tmp_path / "b", train_data, config)) == first
    assert sha256(run(tmp_path / "c", train_data, config, seed=1)) != first
    assert torch.equal(torch.get_rng_state(), state), "training must leave the caller's random state alone"
    np.testing.assert_array_equal(np.random.get_state()[1], global_state)  # type: ignore[index]


def test_checkpoints_tell_how_they_were_made(
    tmp_path: Path, train_data: tuple[Features, Annotations]
) -> None:
    path = run(tmp_path, train_data, changed(epochs=1), seed=3)
    content = torch.load(path, weights_only=True)
    assert {"state_dict", "config", "labels", "widths", "seed", "reg_stats"} == set(content)
    assert content["reg_stats"].shape == (2, 2) and content["reg_stats"].dtype == torch.float64
    checkpoint = read_checkpoint(path)
    assert (checkpoint.labels, checkpoint.widths, checkpoint.seed) == (list(LABELS), [12], 3)
    assert checkpoint.config["model"]["sampling"]["incomplete"] == 6  # a default that nobody wrote
    assert checkpoint.config["training"]["epochs"] == 1


def test_standardised_features_do_not_depend_on_their_scale(
    tmp_path: Path, train_data: tuple[Features, Annotations]
) -> None:
    features, annotations = train_data
    scaled = {
        name: VideoFeatures((value.values * 64 + 512).astype(np.float32), value.axis)
        for name, value in features.items()
    }
    config = changed(epochs=2, standardise=True)
    proposals = windows(annotations)
    plain = predict(run(tmp_path / "a", train_data, config), features, proposals)
    same = predict(run(tmp_path / "b", (scaled, annotations), config), scaled, proposals)
    for name in features:
        np.testing.assert_allclose(plain[name].activity, same[name].activity, atol=1e-2)


def test_videos_without_features_are_left_out_and_counted(
    tmp_path: Path, train_data: tuple[Features, Annotations], caplog: pytest.LogCaptureFixture
) -> None:
    features, annotations = train_data
    some = {name: value for name, value in features.items() if name not in ("train1", "train4")}
    with caplog.at_level(logging.WARNING, "avfusion"):
        path = run(tmp_path, (some, annotations), changed(epochs=1))
        scores = predict(path, some, windows(annotations))
    assert "2 of 12 training videos have no features and are left out (train1, train4)" in caplog.text
    assert "2 of 12 videos have no features and nothing is said of them (train1, train4)" in caplog.text
    assert set(scores) == set(some)


def test_gradients_are_averaged_over_accumulated_batches(
    tmp_path: Path, train_data: tuple[Features, Annotations], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    original = torch.optim.SGD.step

    def counted(self: torch.optim.SGD, *arguments: Any) -> Any:
        steps.append(len(steps))
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    # 12 videos, batches of 1, steps of 5: two steps an epoch, two batches left over and dropped
    run(
        tmp_path,
        train_data,
        changed(optimizer="sgd", lr=1e-4, batch_size=1, accumulate=5, epochs=3, clip_norm=1.0),
    )
    assert len(steps) == 6


def test_networks_compute_in_bfloat16_and_weights_stay_float32(
    tmp_path: Path, train_data: tuple[Features, Annotations]
) -> None:
    checkpoint = read_checkpoint(run(tmp_path, train_data, changed(precision="bfloat16")))
    assert {value.dtype for value in checkpoint.state_dict.values()} == {torch.float32}
    exact = read_checkpoint(run(tmp_path / "exact", train_data))
    name = "roi_head.activity_fc.weight"
    assert not torch.equal(checkpoint.state_dict[name], exact.state_dict[name])
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(rows[-1]["total"]) < 0.5 * float(rows[0]["total"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"detector": "muses", "trianing": {}}, "unknown option 'trianing'"),
        ({"model": {}}, "the option 'detector' is missing"),
        ({"detector": "nuses"}, "there is no detector 'nuses'"),
        (changed(optimizer="sdg"), "training.optimizer: must be sgd or adam or adamw, not 'sdg'"),
        (changed(lr="0.1"), "training.lr: must be a number, not '0.1'"),
        (changed(lr=0.0), "training: lr: must be above 0"),
        (changed(epochs=0), "training: epochs: must be at least 1"),
        (changed(accumulate=32), "training.accumulate: no step would ever be taken: 32 batches make a step"),
        (TINY | {"model": {"hiden": 3}}, "model: unknown option 'hiden'"),
    ],
)
def test_bad_configurations_leave_nothing_behind(
    tmp_path: Path, train_data: tuple[Features, Annotations], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, train_data, config)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_any_more_leaves_nothing_behind(
    tmp_path: Path, train_data: tuple[Features, Annotations]
) -> None:
    with pytest.raises(
        AvfusionError, match=r"loss is no longer finite in epoch \d+; try a lower training.lr"
    ):
        run(tmp_path, train_data, changed(optimizer="sgd", lr=1e6))
    assert not list(tmp_path.iterdir())


def test_data_to_train_on_that_does_not_fit(tmp_path: Path, train_data: tuple[Features, Annotations]) -> None:
    features, annotations = train_data
    wide = features | {"train3": VideoFeatures(np.zeros((9, 13), dtype=np.float32), AXIS)}
    with pytest.raises(InputError, match="features: train3: have 13 channels, those of 'train0' have 12"):
        run(tmp_path, (wide, annotations))
    broken = features | {"train3": VideoFeatures(np.full((9, 12), np.nan, dtype=np.float32), AXIS)}
    with pytest.raises(InputError, match="features: train3: hold a value that is not finite"):
        run(tmp_path, (broken, annotations))
    with pytest.raises(InputError, match="none of its videos has features"):
        run(tmp_path, ({}, annotations))
    with pytest.raises(InputError, match="proposals: none of the training videos has any"):
        train(TINY, features, {}, annotations, 0, tmp_path / "c.pt")
    idle = {name: VideoAnnotation("train", 40.0) for name in annotations.videos}
    with pytest.raises(InputError, match="no video with features has an instance"):
        run(tmp_path, (features, Annotations(idle, LABELS)))


def test_prediction_refuses_what_does_not_fit(
    tmp_path: Path, train_data: tuple[Features, Annotations]
) -> None:
    path = run(tmp_path, train_data, changed(epochs=1))
    proposals = {"x": np.array([[0.0, 2.0]])}
    wide = {"x": VideoFeatures(np.zeros((9, 13), dtype=np.float32), AXIS)}
    with pytest.raises(InputError, match=r"trained on features of 12 channels, those of 'x' have 13"):
        predict(path, wide, proposals)
    broken = {"x": VideoFeatures(np.full((9, 12), np.inf, dtype=np.float32), AXIS)}
    with pytest.raises(InputError, match="features: x: hold a value that is not finite"):
        predict(path, broken, proposals)


class Guess(Detector[RankedProposals]):
    """Learns one number, and proposes the first so many seconds of every video."""

    TRAINING: ClassVar[dict[str, Any]] = {"epochs": 2, "passes": 1, "accumulate": 1, "lr": 0.1}

    @dataclass(frozen=True)
    class Options:
        """None."""

    def __init__(self) -> None:
        super().__init__()
        self.options = self.Options()
        self.bound = torch.nn.Parameter(torch.tensor(5.0))

    def training_set(self, videos: Sequence[Video]) -> "Lengths":
        return Lengths(videos)

    def training_step(self, examples: Sequence[float]) -> dict[str, torch.Tensor]:
        return {"total": (self.bound - torch.tensor(examples)).square().mean()}

    def predict(self, video: Video) -> RankedProposals:
        return RankedProposals(np.array([[0.0, self.bound.item()]]), np.ones(1))


class Lengths(TrainingSet):
    def __init__(self, videos: Sequence[Video]) -> None:
        self.lengths = [float(np.diff(video.instances).mean()) for video in videos]

    def __len__(self) -> int:
        return len(self.lengths)

    def draw(self, index: int, rng: np.random.RandomState) -> float:
        return self.lengths[index]


def test_a_detector_without_proposals_trains_as_published_and_proposes(
    tmp_path: Path, train_data: tuple[Features, Annotations], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, annotations = train_data
    module = SimpleNamespace(TRAINING=Guess.TRAINING, Options=Guess.Options, build=lambda *arguments: Guess())
    monkeypatch.setitem(sys.modules, "guess", module)
    monkeypatch.setitem(DETECTORS, "guess", "guess")
    path = tmp_path / "checkpoint.pt"
    config = {"detector": "guess", "training": {"lr": 0.05}}
    train(config, features, {}, annotations, 0, path)
    training = read_checkpoint(path).config["training"]
    assert (training["epochs"], training["lr"], training["momentum"]) == (2, 0.05, 0.9)
    found = propose(path, features, ["train3", "nowhere", "train1"])
    assert list(found) == ["train3", "train1"]
    assert 2 < found["train1"].segments[0, 1] < 6
    with pytest.raises(InputError, match="detector 'guess': makes proposals and scores none; use `propose`"):
        predict(path, features, windows(annotations))


def test_a_detector_that_needs_proposals_makes_none(
    tmp_path: Path, train_data: tuple[Features, Annotations]
) -> None:
    path = run(tmp_path, train_data, changed(epochs=1))
    with pytest.raises(InputError, match="detector 'muses': scores proposals and makes none; use `predict`"):
        propose(path, train_data[0], ["train1"])


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    contents: list[Any] = [b"", b"not a checkpoint", {"state_dict": {}}, [1, 2]]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x", "y")
    for content in [*contents, archive.getvalue(), {"a": Path("executed when unpickled")}]:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(InputError, match=r"checkpoint.pt: (cannot be read as a|is no) checkpoint"):
            read_checkpoint(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(tmp_path / "missing.pt")


def test_a_checkpoint_that_does_not_fit_its_options(
    tmp_path: Path, train_data: tuple[Features, Annotations]
) -> None:
    path = run(tmp_path, train_data, changed(epochs=1))
    content = torch.load(path, weights_only=True)
    content["state_dict"]["roi_head.activity_fc.bias"] = torch.zeros(9)
    torch.save(content, path)
    with pytest.raises(InputError, match=r"state_dict: does not fit its own options .*activity_fc\.bias"):
        predict(path, {}, {})


def test_unknown_device(tmp_path: Path, train_data: tuple[Features, Annotations]) -> None:
    features, annotations = train_data
    with pytest.raises(InputError, match="device: must be auto, cpu or cuda, not 'gpu'"):
        train(TINY, features, windows(annotations), annotations, 0, tmp_path / "c.pt", device="gpu")
