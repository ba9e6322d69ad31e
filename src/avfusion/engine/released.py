"""Checkpoints as other people release them.

A file is a state dict, or a dictionary with one (``state_dict``, ...) beside other entries, such as MUSES'
``epoch``, ``best_loss`` and ``reg_stats``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avfusion.backbones.weights import WRAPPERS
from avfusion.data.torch_file import load_torch
from avfusion.errors import InputError

PREFIX = "module."  # of every name, when trained with DataParallel


@dataclass(frozen=True, eq=False)
class Released:
    """What a released file holds.

    Attributes:
        state: parameters by name, without ``module.``.
        entries: what stands beside them, by name.
        source: the file.
    """

    state: Mapping[str, Tensor]
    entries: Mapping[str, Any]
    source: str


def read_released(path: str | Path) -> Released:
    """Read a file written by ``torch.save``; nothing in it is executed.

    Raises:
        InputError: see `avfusion.data.torch_file.load_torch`; or no state dict in it.
    """
    content = load_torch(path)
    entries: Mapping[str, Any] = {}
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            entries = {key: value for key, value in content.items() if key != wrapper}
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(path, "holds no state dict (a table of names and tensors)")
    state = {str(name): _tensor(path, str(name), value) for name, value in content.items()}
    while all(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): value for name, value in state.items()}
    return Released(state, entries, str(path))


def _tensor(path: str | Path, name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise InputError(path, f"is a {type(value).__name__}, not a tensor", name)
    return value
