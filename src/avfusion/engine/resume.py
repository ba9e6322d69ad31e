"""The state of an unfinished training, so that one that was stopped goes on as if it never had been.

A state file is written by ``torch.save`` and read with ``weights_only``: tensors, numbers and one JSON text.
It belongs to one training: the same options, seed, classes, videos, features and proposals, the same code of
the package, on the same kind of device. Any other file, or one that is damaged, is ignored.
"""

import hashlib
import json
import logging
import pickle
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import avfusion
from avfusion.detectors.base import Video
from avfusion.files import atomic_path
from avfusion.fingerprint import fingerprint

SAVE_EVERY = 60.0  # seconds
UNREADABLE = (OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError)
PACKAGE = Path(avfusion.__file__).parent
logger = logging.getLogger("avfusion")


@dataclass
class Progress:
    """How far a training is. It is saved between two steps of the optimiser, when no gradient is pending.

    Attributes:
        epoch: that is going on, from 0.
        order: examples in the order of this epoch; empty before it begins.
        done: passes of this epoch that are done.
        batches: batches of this epoch that are done.
        sums: of every loss over them, on the device.
        seconds: that this epoch took until now.
        rows: of the log, one per finished epoch.
    """

    epoch: int = 0
    order: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    done: int = 0
    batches: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)


class Keeper:
    """Saves the state of a training to a file every now and then, and takes it up again.

    Args:
        path: the file; None: nothing is saved.
        identity: of the training, from `identity`.
        model: that is trained.
        optimiser: that trains it.
        rng: numpy's generator; torch's global ones are saved as well.
        device: of the model.
        every: seconds between two saves.
    """

    def __init__(
        self,
        path: str | Path | None,
        identity: str,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        rng: np.random.RandomState,
        device: torch.device,
        every: float = SAVE_EVERY,
    ) -> None:
        self._path = None if path is None else Path(path)
        self._identity, self._every = identity, every
        self._model, self._optimiser, self._rng, self._device = model, optimiser, rng, device
        self._saved = time.monotonic()

    def offer(self, progress: Progress) -> None:
        """Save the state if it is time to. No gradient may be pending."""
        if self._path is None or time.monotonic() - self._saved < self._every:
            return
        kind, keys, position, has_gauss, gauss = self._rng.get_state(legacy=True)
        texts = {
            "identity": self._identity,
            "numpy": [kind, int(position), int(has_gauss), float(gauss)],
            **{name: getattr(progress, name) for name in ("epoch", "done", "batches", "seconds", "rows")},
        }
        state = {
            "texts": json.dumps(texts),
            "numpy_keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "torch": torch.get_rng_state(),
            "order": progress.order,
            "sums": progress.sums,
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        with atomic_path(self._path) as temporary:
            torch.save(state, temporary)
        self._saved = time.monotonic()

    def resume(self) -> Progress:
        """Take up the state of the file, if it is one of this training; else begin at the beginning."""
        if self._path is None or not self._path.exists():
            return Progress()
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            texts = json.loads(state["texts"])
            if texts.pop("identity") != self._identity:
                raise ValueError("it is of a training with other options, seed, data or code")
        except (KeyError, TypeError):
            return self._ignore("it holds no state of a training")
        except UNREADABLE as error:
            return self._ignore((str(error).splitlines() or [type(error).__name__])[0])
        self._model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        kind, position, has_gauss, gauss = texts.pop("numpy")
        keys = state["numpy_keys"].numpy().astype(np.uint32)
        self._rng.set_state((kind, keys, position, has_gauss, gauss))
        torch.set_rng_state(state["torch"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self._device)
        logger.info("going on with epoch %d of the training in %s", texts["epoch"], self._path)
        sums = {name: total.to(self._device) for name, total in state["sums"].items()}
        return Progress(order=state["order"], sums=sums, **texts)

    def forget(self) -> None:
        """Remove the file: the training is finished."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _ignore(self, reason: str) -> Progress:
        logger.warning("%s is ignored, training begins at the beginning: %s", self._path, reason)
        return Progress()


def identity(
    config: Mapping[str, Any],
    labels: Sequence[str],
    seed: int,
    videos: Sequence[Video],
    device: torch.device,
) -> str:
    """A hash of all that a training depends on, features and proposals included."""
    code = fingerprint(PACKAGE / "engine" / "train.py", PACKAGE)
    facts = [config, list(labels), seed, code, device.type, [video.name for video in videos]]
    total = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    for video in videos:
        axis = video.features.axis
        columns = (video.features.values, [axis.first, axis.stride], video.proposals, video.instances)
        for column in (*columns, video.classes):
            values = np.ascontiguousarray(column)
            total.update(str((values.shape, values.dtype)).encode())
            total.update(values.tobytes())
    return total.hexdigest()
