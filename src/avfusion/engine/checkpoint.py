"""Checkpoints: tensors, and JSON texts that say what made them. Nothing in them is executed when read.

A checkpoint is a dictionary written by ``torch.save``: ``state_dict`` (the detector's, under the published
names), the detector's statistics (MUSES: ``reg_stats``), ``feature_mean`` and ``feature_deviation`` if
features were standardised, and as JSON ``config`` (what `avfusion.engine.train` was given, completed with all
defaults), ``labels``, ``widths`` and ``seed``.
"""

import io
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avfusion.errors import InputError
from avfusion.files import atomic_path

TEXTS = ("config", "labels", "widths", "seed")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained detector.

    Attributes:
        config: what it was trained with; enough to build it again.
        labels: names of the classes.
        widths: channels of every stream of the features.
        seed: that it was trained with.
        state_dict: its parameters.
        statistics: further tensors by name.
        source: file that it comes from, for messages.
    """

    config: Mapping[str, Any]
    labels: Sequence[str]
    widths: Sequence[int]
    seed: int
    state_dict: Mapping[str, Tensor]
    statistics: Mapping[str, Tensor]
    source: str = field(default="checkpoint", compare=False)


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically; equal checkpoints give equal bytes."""
    texts = {name: json.dumps(getattr(checkpoint, name), sort_keys=True) for name in TEXTS}
    tensors = {name: value.cpu() for name, value in checkpoint.statistics.items()}
    state = {name: value.cpu() for name, value in checkpoint.state_dict.items()}
    # Into memory first: torch.save writes the name of its file into the archive, and ours is a temporary one.
    archive = io.BytesIO()
    torch.save({"state_dict": state, **tensors, **texts}, archive)
    with atomic_path(path) as temporary:
        temporary.write_bytes(archive.getvalue())


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote, onto the CPU.

    Raises:
        InputError: the file cannot be read, or is no such checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(path, f"cannot be read as a checkpoint ({reason})") from error
    missing = {"state_dict", *TEXTS} - set(content if isinstance(content, dict) else ())
    if missing:
        raise InputError(path, f"is no checkpoint of avfusion: it lacks {', '.join(sorted(missing))}")
    try:
        texts = {name: json.loads(content.pop(name)) for name in TEXTS}
    except (TypeError, ValueError) as error:
        raise InputError(path, f"is no checkpoint of avfusion: a text in it is no JSON ({error})") from error
    return Checkpoint(**texts, state_dict=content.pop("state_dict"), statistics=content, source=str(path))
