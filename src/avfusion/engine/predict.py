"""Prediction: what a trained detector says of every video."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avfusion.data.features import VideoFeatures
from avfusion.data.proposals import RankedProposals, Segments
from avfusion.data.scores import ProposalScores
from avfusion.detectors import build_detector
from avfusion.detectors.base import Detector, Prediction, Video
from avfusion.engine.checkpoint import Checkpoint, read_checkpoint
from avfusion.engine.device import choose_device, exact_float32
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
    """Scores of the proposals of every video that has features, by a two-stage detector.

    Args:
        checkpoint: file that `train` wrote, or what `read_checkpoint` made of it.
        features: with the streams fused as in training.
        proposals: in seconds; the videos to predict are those that are in here.
        device: cpu, cuda or auto.

    Returns:
        Scores by video, in the order of `proposals`, without the videos that have no features (logged).

    Raises:
        InputError: no checkpoint of avfusion, or one of a detector that scores no proposals; features of
            another width, or not finite.
    """
    trained = checkpoint if isinstance(checkpoint, Checkpoint) else read_checkpoint(checkpoint)
    detector = load_detector(trained)
    if not detector.needs_proposals:
        problem = "makes proposals and scores none; use `propose`"
        raise InputError(trained.source, problem, f"detector '{trained.config['detector']}'")
    return _ask_all(trained, detector, features, proposals, device)


def propose(
    checkpoint: str | Path | Checkpoint,
    features: Mapping[str, VideoFeatures],
    videos: Iterable[str],
    device: str = "auto",
) -> dict[str, RankedProposals]:
    """Proposals for every video that has features, by a detector that needs none (G-TAD).

    Args:
        checkpoint: file that `train` wrote, or what `read_checkpoint` made of it.
        features: with the streams fused as in training.
        videos: ids of the videos to look at.
        device: cpu, cuda or auto.

    Returns:
        Ranked proposals by video, in the order of `videos`, without those that have no features (logged).

    Raises:
        InputError: no checkpoint of avfusion, or one of a detector that makes no proposals; features of
            another width, or not finite.
    """
    trained = checkpoint if isinstance(checkpoint, Checkpoint) else read_checkpoint(checkpoint)
    detector = load_detector(trained)
    if detector.needs_proposals:
        problem = "scores proposals and makes none; use `predict`"
        raise InputError(trained.source, problem, f"detector '{trained.config['detector']}'")
    nothing = {name: np.zeros((0, 2)) for name in videos}
    return _ask_all(trained, detector, features, nothing, device)


def _ask_all(
    trained: Checkpoint,
    detector: Detector[Prediction],
    features: Mapping[str, VideoFeatures],
    proposals: Mapping[str, Segments],
    device: str,
) -> dict[str, Prediction]:
    """What the detector says of every video of `proposals` that has features, in float32."""
    detector.to(choose_device(device)).eval()
    standardiser = Standardiser.from_tensors(trained.statistics)
    there = [name for name in proposals if name in features]
    if len(there) < len(proposals):
        missing = [name for name in proposals if name not in features]
        more = ", ..." if len(missing) > 3 else ""
        logger.warning(
            "%d of %d videos have no features and nothing is said of them (%s%s)",
            *(len(missing), len(proposals), ", ".join(missing[:3]), more),
        )
    said = {}
    with exact_float32():
        for name in track(there, "predicting", unit="video"):
            values = features[name]
            _check(trained, name, values)
            if standardiser is not None:
                values = standardiser(values)
            segments = np.asarray(proposals[name], dtype=np.float64).reshape(-1, 2)
            said[name] = detector.predict(Video(name, values, segments))
    return said


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
