"""Files of other people written by ``torch.save``, read without executing anything that is in them.

Checkpoints hold numpy numbers and arrays beside tensors (MUSES: ``best_loss``, ``reg_stats``), which torch's
safe reader refuses unless it is told that they are harmless. Exactly the functions that rebuild those are
allowed, under the names that old and new versions of numpy give them. Everything else is refused.
"""

import _codecs
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avfusion.errors import InputError

NUMPY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]


def load_torch(path: str | Path) -> Any:
    """The content of a file of torch, in its new or its old format, on the CPU.

    Raises:
        InputError: no such file, or none of torch; objects other than tensors, numbers, texts, numpy arrays
            and containers of them.
    """
    try:
        return _load(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL |but got <class ')([\w.]+)", str(error))
        if found is None:
            raise InputError(path, "is no file of torch that can be read safely, or is damaged") from error
        advice = "load it where you trust it, and save only the tensors in it with torch.save"
        problem = f"holds objects other than tensors ({found[1]}), which are never loaded; {advice}"
        raise InputError(path, problem) from error
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})") from error
    except (EOFError, RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(path, f"cannot be read as a file of torch ({reason})") from error


def _load(path: str | Path) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except UnicodeDecodeError:  # Python 2 wrote it, for which texts were bytes
            warnings.filterwarnings("ignore", message="pickle_load_args only works")  # `encoding` does
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")


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
