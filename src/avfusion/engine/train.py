"""Training of a detector: epochs, batches, optimiser, log, checkpoint. The last epoch is the result.

One seed gives one checkpoint, to the bit, on one CPU and with one number of threads; also if the training is
stopped in between and taken up again.
"""

import logging
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
from avfusion.detectors.base import Detector, Video
from avfusion.engine.checkpoint import Checkpoint, write_checkpoint
from avfusion.engine.cropping import crop
from avfusion.engine.device import choose_device
from avfusion.engine.history import open_board, write_history
from avfusion.engine.initial import read_initial, take_over
from avfusion.engine.loop import Run, fit
from avfusion.engine.optimise import make_optimiser
from avfusion.engine.resume import SAVE_EVERY, Keeper, identity
from avfusion.engine.schedule import TrainingOptions, check_schedule, published_changes
from avfusion.engine.standardise import Standardiser
from avfusion.errors import InputError
from avfusion.files import sha256
from avfusion.memory import keep_freed_memory
from avfusion.options import read_options, write_options
from avfusion.seeding import derive

CONFIG = "training configuration"
logger = logging.getLogger("avfusion")


@dataclass(frozen=True)
class TrainingConfig:
    """What `train` is told: the detector's name, its options (see its module), and how to train it."""

    detector: str
    model: dict[str, Any] = field(default_factory=dict)
    training: TrainingOptions = field(default_factory=TrainingOptions)


def read_training_config(config: Mapping[str, Any]) -> TrainingConfig:
    """The configuration completed: what is not given is as the detector was published.

    Raises:
        InputError: an option or a detector that does not exist, or a wrong value.
    """
    chosen = read_options(TrainingConfig, config, CONFIG)
    training = published_changes(chosen.detector, CONFIG) | dict(config.get("training", {}))
    return replace(chosen, training=read_options(TrainingOptions, training, CONFIG, "training"))


def train(
    config: Mapping[str, Any],
    features: Mapping[str, VideoFeatures],
    proposals: Mapping[str, Segments],
    annotations: Annotations,
    seed: int,
    out_path: str | Path,
    log_path: str | Path | None = None,
    device: str = "auto",
    resume_path: str | Path | None = None,
    board_path: str | Path | None = None,
    save_every: float = SAVE_EVERY,
    initial_path: str | Path | None = None,
) -> None:
    """Train a detector and write its checkpoint. On a CPU, the process keeps freed memory from then on.

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
        resume_path: file for the state of the unfinished training. If there is one, of this very training,
            it is taken up; at the end it is removed. None: a training that is stopped is lost.
        board_path: folder for TensorBoard; needs the package of that name.
        save_every: seconds between two states.
        initial_path: checkpoint whose parameters take the place of random ones; features are standardised as
            for it. What a detector measures on the training data (`Detector.statistics`) is measured anew.

    Raises:
        InputError: an option that does not exist or has a wrong value; no video to train on; features of
            unequal widths or that are not finite; a schedule that never takes a step; an initial checkpoint
            that does not fit.
        AvfusionError: the loss is no longer finite.
    """
    chosen = read_training_config(config)
    options = chosen.training
    where = choose_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    videos = collect_videos(features, proposals, annotations)
    widths = _common_widths(videos)
    start = None
    if initial_path is not None:
        start = read_initial(initial_path, chosen.detector, widths, annotations.labels, options.standardise)
    statistics = {}
    if options.standardise:
        standardiser = start and Standardiser.from_tensors(start.statistics)
        standardiser = standardiser or Standardiser.fit([video.features for video in videos])
        videos = [replace(video, features=standardiser(video.features)) for video in videos]
        statistics = standardiser.tensors()
    if options.window is not None:
        videos = [part for video in videos for part in crop(video, options.window)]
    with _own_random_state(derive(seed, "network"), where):
        detector = build_detector(chosen.detector, chosen.model, widths, len(annotations.labels), CONFIG)
        if start is not None:
            take_over(detector, start, len(annotations.labels))
        detector.to(where)
        _check_proposals(detector, videos)
        completed: dict[str, Any] = {
            "detector": chosen.detector,
            "model": write_options(detector.options),
            "training": write_options(options),
        }
        if initial_path is not None:
            completed["initial"] = f"sha256:{sha256(initial_path)}"
        examples = detector.training_set(videos)
        check_schedule(options, len(examples), CONFIG)
        rng = np.random.RandomState(derive(seed, "samples"))
        run = Run(detector, examples, options, make_optimiser(detector, options), rng, where)
        about = identity(completed, annotations.labels, seed, videos, where) if resume_path else ""
        keeper = Keeper(resume_path, about, detector, run.optimiser, rng, where, save_every)
        progress = keeper.resume()
        with open_board(board_path, progress.epoch) as board:
            fit(run, progress, keeper, board)
    if log_path is not None:
        write_history(log_path, progress.rows)
    statistics |= detector.statistics()
    state = detector.state_dict()
    write_checkpoint(
        out_path, Checkpoint(completed, list(annotations.labels), widths, seed, state, statistics)
    )
    keeper.forget()


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
