"""Which device networks run on."""

import torch

from avfusion.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device that ``cpu``, ``cuda`` or ``auto`` (CUDA if there is one) means.

    Raises:
        InputError: another name, or CUDA where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError("device", f"must be auto, cpu or cuda, not '{name}'")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device", "cuda was asked for, but torch finds no CUDA device; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
