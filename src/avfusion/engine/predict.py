"""Prediction: what a trained detector says of every video."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avfusion.data.features import VideoFeatures
from avfusion.data.proposals import Segments
from avfusion.data.scores import ProposalScores
from avfusion.detectors import build_detector
from avfusion.detectors.base import Detector, Video
from avfusion.engine.checkpoint import Checkpoint, read_checkpoint
from avfusion.engine.device import choose_device
from avfusion.engine.standardise import Standardiser
from avfusion.errors import InputError
from avfusion.progress import track

logger = logging.getLogger("avfusion")


def predict(
    checkpoint: str | Path | Checkpoint,
    features: Mapping[str, VideoFeatures],
    proposals: Mapping[str, Segments],
    device: str = "auto",
) -> dict[str, ProposalScores]:
    """Scores of the proposals of every video that has features.

    Args:
        checkpoint: file that `train` wrote, or what `read_checkpoint` made of it.
        features: with the streams fused as in training.
        proposals: in seconds; the videos to predict are those that are in here.
        device: cpu, cuda or auto.

    Returns:
        Scores by video, in the order of `proposals`, without the videos that have no features (logged).

    Raises:
        InputError: no checkpoint of avfusion; features of another width, or not finite.
    """
    trained = checkpoint if isinstance(checkpoint, Checkpoint) else read_checkpoint(checkpoint)
    detector = load_detector(trained).to(choose_device(device)).eval()
    standardiser = Standardiser.from_tensors(trained.statistics)
    there = [name for name in proposals if name in features]
    if len(there) < len(proposals):
        missing = [name for name in proposals if name not in features]
        more = ", ..." if len(missing) > 3 else ""
        logger.warning(
            "%d of %d videos have no features and get no scores (%s%s)",
            *(len(missing), len(proposals), ", ".join(missing[:3]), more),
        )
    scores = {}
    for name in track(there, "predicting", unit="video"):
        values = features[name]
        _check(trained, name, values)
        if standardiser is not None:
            values = standardiser(values)
        segments = np.asarray(proposals[name], dtype=np.float64).reshape(-1, 2)
        scores[name] = detector.predict(Video(name, values, segments))
    return scores


def load_detector(checkpoint: Checkpoint) -> Detector[Any]:
    """Build the detector that a checkpoint holds.

    Raises:
        InputError: the checkpoint's options or parameters fit no detector of this version.
    """
    config = checkpoint.config
    detector = build_detector(
        config["detector"], config["model"], checkpoint.widths, len(checkpoint.labels), checkpoint.source
    )
    try:
        detector.load_state_dict(dict(checkpoint.state_dict))
        detector.load_statistics(checkpoint.statistics)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            checkpoint.source, f"does not fit its own options ({reason})", "state_dict"
        ) from error
    return detector


def _check(checkpoint: Checkpoint, name: str, features: VideoFeatures) -> None:
    if list(features.widths) != list(checkpoint.widths):
        trained, found = ("+".join(map(str, widths)) for widths in (checkpoint.widths, features.widths))
        problem = f"was trained on features of {trained} channels, those of '{name}' have {found}"
        raise InputError(checkpoint.source, problem, "widths")
    if not np.isfinite(features.values).all():
        raise InputError("features", "hold a value that is not finite", name)
