"""The checkpoint that a training begins from, in place of random weights."""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from avfusion.engine.checkpoint import Checkpoint, read_checkpoint
from avfusion.errors import InputError

logger = logging.getLogger("avfusion")


def read_initial(
    path: str | Path, detector: str, widths: Sequence[int], labels: Sequence[str], standardise: bool
) -> Checkpoint:
    """Read a checkpoint to begin from.

    Args:
        path: of a training, or of `avfusion import-checkpoint`.
        detector: name of the one that is to be trained.
        widths: channels of every stream of its features.
        labels: its classes; that the checkpoint has others is no error where shapes agree, and is logged.
        standardise: whether features are to be standardised: as they were for the checkpoint, if at all.

    Raises:
        InputError: no checkpoint of avfusion, or one of another detector, or for other features.
    """
    if not Path(path).exists():
        raise InputError(path, "does not exist; the training is to begin from it", "initial")
    start = read_checkpoint(path)
    if start.config["detector"] != detector:
        raise InputError(path, f"is of '{start.config['detector']}', and '{detector}' is to be trained")
    if list(start.widths) != list(widths):
        theirs, ours = ("+".join(map(str, channels)) for channels in (start.widths, widths))
        raise InputError(path, f"was trained on features of {theirs} channels, these have {ours}", "widths")
    standardised = "feature_mean" in start.statistics
    if standardised != standardise:
        told = "standardised" if standardised else "not standardised"
        raise InputError(path, f"was trained on features that were {told}: set training.standardise so")
    if list(start.labels) != list(labels):
        logger.warning("training begins from a checkpoint of other classes (%s)", path)
    return start


def take_over(detector: nn.Module, start: Checkpoint, classes: int) -> None:
    """Give a detector the parameters of a checkpoint, all of them.

    Args:
        detector: built for the training, on any device.
        start: from `read_initial`.
        classes: that the detector is for.

    Raises:
        InputError: a parameter is missing, left over, or of another shape; it is named.
    """
    own, theirs = detector.state_dict(), start.state_dict
    odd = [f"lacks {name}" for name in own if name not in theirs]
    odd += [f"has {name}, which is not wanted" for name in theirs if name not in own]
    shapes = [(name, tuple(theirs[name].shape), tuple(own[name].shape)) for name in own if name in theirs]
    odd += [
        f"has {name} of shape {has}, and {wants} is wanted" for name, has, wants in shapes if has != wants
    ]
    if odd:
        more = f" ({len(odd) - 1} more parameters do not fit)" if len(odd) > 1 else ""
        known, advice = len(start.labels), "its options differ"
        if known != classes:
            advice = f"it knows {known} classes, and {classes} are wanted"
        raise InputError(start.source, f"{odd[0]}{more}: {advice}", "initial")
    detector.load_state_dict(dict(theirs))
    logger.info("training begins from %s", start.source)
