"""Checkpoints as other people release them, read without executing anything that is in them.

A file is a state dict, or a dictionary with one (``state_dict``, ...) beside other entries, such as MUSES'
``epoch``, ``best_loss`` and ``reg_stats``. The latter are numpy values, which torch's safe reader refuses
unless it is told that they are harmless: exactly the functions that rebuild numpy numbers and arrays are
allowed, under the names that old and new versions of numpy give them. Everything else is refused.
"""

import _codecs
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avfusion.backbones.weights import WRAPPERS
from avfusion.errors import InputError

PREFIX = "module."  # of every name, when trained with DataParallel
NUMPY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
TRUSTED = "load it where you trust it, and save its state_dict (and reg_stats) as tensors with torch.save"

Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]


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
    """Read a file written by ``torch.save``, in its new or its old format, onto the CPU.

    Raises:
        InputError: no such file, or none of torch; objects other than tensors, numbers, texts, numpy arrays
            and containers of them; no state dict in it.
    """
    content = _load(path)
    entries: Mapping[str, Any] = {}
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            entries = {key: value for key, value in content.items() if key != wrapper}
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(path, "holds no state dict (a table of names and tensors)")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise InputError(path, f"is a {type(value).__name__}, not a tensor", str(name))
    state = {str(name): value for name, value in content.items()}
    while all(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): value for name, value in state.items()}
    return Released(state, entries, str(path))


def _load(path: str | Path) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise InputError(path, "is no file of torch, or is damaged") from error
        problem = f"holds objects other than tensors ({found[1]}), which are never loaded; {TRUSTED}"
        raise InputError(path, problem) from error
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from error
    except (EOFError, RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(path, f"cannot be read as a file of torch ({reason})") from error


def _harmless() -> list[Allowed]:
    """What may be called when reading: how numpy rebuilds arrays and numbers, under all its names."""
    rebuild: dict[str, Any] = {
        "_reconstruct": np.empty(0).__reduce__()[0],
        "scalar": np.float64(0).__reduce__()[0],
    }
    homes = ("numpy._core.multiarray", "numpy.core.multiarray")  # since numpy 2, and before
    named: list[Allowed] = [(value, f"{home}.{name}") for name, value in rebuild.items() for home in homes]
    types = [type(np.dtype(name)) for name in NUMPY_TYPES]
    return [np.ndarray, np.dtype, _codecs.encode, *types, *named]
