"""Training of a detector: epochs, batches, optimiser, log, checkpoint. The last epoch is the result.

One seed gives one checkpoint, to the bit, on one CPU and with one number of threads.
"""

import csv
import io
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avfusion.data.annotations import Annotations
from avfusion.data.features import VideoFeatures
from avfusion.data.proposals import Segments
from avfusion.detectors import build_detector
from avfusion.detectors.base import TOTAL, Detector, TrainingSet, Video
from avfusion.engine.checkpoint import Checkpoint, write_checkpoint
from avfusion.engine.device import choose_device
from avfusion.engine.optimise import OptimiserOptions, learning_rate, make_optimiser, set_rate
from avfusion.engine.standardise import Standardiser
from avfusion.errors import AvfusionError, InputError
from avfusion.files import write_text
from avfusion.options import read_options, require, write_options
from avfusion.progress import track
from avfusion.seeding import derive

CONFIG = "training configuration"
logger = logging.getLogger("avfusion")


@dataclass(frozen=True)
class TrainingOptions(OptimiserOptions):
    """How to train; the defaults are those that MUSES was trained with on THUMOS14.

    Attributes:
        epochs: number of epochs; the schedule of the learning rate counts in them.
        passes: times that an epoch goes through the training data.
        batch_size: examples (MUSES: videos) per batch.
        standardise: give every channel mean 0 and deviation 1 over the training data; published: false.
    """

    epochs: int = 20
    passes: int = 20
    batch_size: int = 1
    standardise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "passes", "batch_size"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class TrainingConfig:
    """What `train` is told: the detector's name, its options (see its module), and how to train it."""

    detector: str
    model: dict[str, Any] = field(default_factory=dict)
    training: TrainingOptions = field(default_factory=TrainingOptions)


@dataclass(frozen=True)
class _Batch:
    """Indices of the examples of a batch, and whether it is the last one of its epoch."""

    epoch: int
    examples: Sequence[int]
    last: bool


def train(
    config: Mapping[str, Any],
    features: Mapping[str, VideoFeatures],
    proposals: Mapping[str, Segments],
    annotations: Annotations,
    seed: int,
    out_path: str | Path,
    log_path: str | Path | None = None,
    device: str = "auto",
) -> None:
    """Train a detector and write its checkpoint.

    Args:
        config: ``{"detector": name, "model": {...}, "training": {...}}``: see `TrainingOptions` and the
            `Options` of the detector's module; what is not given has the published value.
        features: of the videos, all streams already fused.
        proposals: in seconds, by video; may be empty for detectors that need none.
        annotations: of the videos to train on, all of them and no others.
        seed: of the initial weights, the order of the videos, the proposals drawn, and dropout.
        out_path: the checkpoint.
        log_path: CSV with a row per epoch: epoch, lr, mean of every loss, seconds.
        device: cpu, cuda or auto.

    Raises:
        InputError: an option that does not exist or has a wrong value; no video to train on; features of
            unequal widths or that are not finite; a schedule that never takes a step.
        AvfusionError: the loss is no longer finite.
    """
    chosen = read_options(TrainingConfig, config, CONFIG)
    options = chosen.training
    where = choose_device(device)
    videos = collect_videos(features, proposals, annotations)
    widths = _common_widths(videos)
    statistics = {}
    if options.standardise:
        standardiser = Standardiser.fit(video.features for video in videos)
        videos = [replace(video, features=standardiser(video.features)) for video in videos]
        statistics = standardiser.tensors()
    with _own_random_state(derive(seed, "network"), where):
        detector = build_detector(chosen.detector, chosen.model, widths, len(annotations.labels), CONFIG)
        detector.to(where)
        _check_proposals(detector, videos)
        examples = detector.training_set(videos)
        log = _fit(detector, examples, options, np.random.RandomState(derive(seed, "samples")))
    if log_path is not None:
        write_text(log_path, _csv(log))
    completed = {
        "detector": chosen.detector,
        "model": write_options(detector.options),
        "training": write_options(options),
    }
    statistics |= detector.statistics()
    state = detector.state_dict()
    write_checkpoint(
        out_path, Checkpoint(completed, list(annotations.labels), widths, seed, state, statistics)
    )


def collect_videos(
    features: Mapping[str, VideoFeatures], proposals: Mapping[str, Segments], annotations: Annotations
) -> list[Video]:
    """The annotated videos that have features, with proposals where there are any.

    How many are left out is logged, with the names of the first few.

    Raises:
        InputError: none is left, or features are not finite.
    """
    index = {label: k for k, label in enumerate(annotations.labels)}
    videos = []
    for name, annotation in annotations.videos.items():
        if name not in features:
            continue
        values = features[name]
        if not np.isfinite(values.values).all():
            raise InputError("features", "hold a value that is not finite", name)
        instances = np.array([(i.start, i.end) for i in annotation.instances], dtype=np.float64)
        classes = np.array([index[i.label] for i in annotation.instances], dtype=np.int64)
        candidates = np.asarray(proposals.get(name, ()), dtype=np.float64).reshape(-1, 2)
        videos.append(Video(name, values, candidates, instances.reshape(-1, 2), classes))
    missing = [name for name in annotations.videos if name not in features]
    if missing:
        logger.warning(
            "%d of %d training videos have no features and are left out (%s%s)",
            *(len(missing), len(annotations.videos), ", ".join(missing[:3])),
            ", ..." if len(missing) > 3 else "",
        )
    if not videos:
        raise InputError(annotations.source, "none of its videos has features to train on")
    return videos


def _fit(
    detector: Detector[Any], examples: TrainingSet, options: TrainingOptions, rng: np.random.RandomState
) -> list[dict[str, float]]:
    """Train; returns the rows of the log."""
    per_epoch = math.ceil(len(examples) * options.passes / options.batch_size)
    if len(examples) == 0:
        raise InputError("annotations", "no video with features has an instance to train on")
    if per_epoch < options.accumulate:
        problem = (
            f"no step would ever be taken: {options.accumulate} batches make a step, and an epoch has "
            f"{per_epoch} ({len(examples)} videos x {options.passes} passes / {options.batch_size} per batch)"
        )
        raise InputError(CONFIG, problem, "training.accumulate")
    optimiser = make_optimiser(detector, options)
    detector.train()
    log: list[dict[str, float]] = []
    sums: dict[str, float] = {}
    pending, done, started = 0, 0, time.perf_counter()
    for batch in track(
        _batches(len(examples), options, rng), "training", total=per_epoch * options.epochs, unit="batch"
    ):
        rate = learning_rate(options, batch.epoch)
        set_rate(optimiser, rate)
        losses = detector.training_step([examples.draw(k, rng) for k in batch.examples])
        (losses[TOTAL] / options.accumulate).backward()
        pending, done = pending + 1, done + 1
        if pending == options.accumulate:
            _step(detector, optimiser, options)
            pending = 0
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item()
        if batch.last:
            _check_finite(sums, batch.epoch)
            means = {name: total / done for name, total in sums.items()}
            log.append({"epoch": batch.epoch, "lr": rate, **means, "seconds": time.perf_counter() - started})
            optimiser.zero_grad()
            sums, pending, done, started = {}, 0, 0, time.perf_counter()
    detector.eval()
    return log


def _batches(count: int, options: TrainingOptions, rng: np.random.RandomState) -> Iterator[_Batch]:
    """All batches of all epochs; an epoch goes through the data `passes` times, in an order of its own."""
    for epoch in range(options.epochs):
        order = rng.permutation(count * options.passes) % count
        for begin in range(0, len(order), options.batch_size):
            end = begin + options.batch_size
            yield _Batch(epoch, order[begin:end].tolist(), end >= len(order))


def _step(detector: Detector[Any], optimiser: torch.optim.Optimizer, options: TrainingOptions) -> None:
    if options.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(detector.parameters(), options.clip_norm)
    optimiser.step()
    optimiser.zero_grad()


def _check_finite(sums: Mapping[str, float], epoch: int) -> None:
    broken = [name for name, total in sums.items() if not math.isfinite(total)]
    if broken:
        raise AvfusionError(
            f"training failed: the {broken[0]} loss is no longer finite in epoch {epoch}; try a lower "
            "training.lr, or training.clip_norm"
        )


def _check_proposals(detector: Detector[Any], videos: Sequence[Video]) -> None:
    if detector.needs_proposals and not any(len(video.proposals) for video in videos):
        raise InputError("proposals", "none of the training videos has any, and this detector needs them")


def _common_widths(videos: Sequence[Video]) -> list[int]:
    widths = videos[0].features.widths
    for video in videos:
        if video.features.widths != widths:
            found, first = ("+".join(map(str, value)) for value in (video.features.widths, widths))
            problem = f"have {found} channels, those of '{videos[0].name}' have {first}"
            raise InputError("features", problem, video.name)
    return list(widths)


@contextmanager
def _own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (initial weights, dropout), and put them back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _csv(log: Sequence[Mapping[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(log[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "seconds": f"{row['seconds']:.2f}"} for row in log)
    return text.getvalue()
