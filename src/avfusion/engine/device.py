"""Which device networks run on, and how exactly it computes."""

from collections.abc import Iterator
from contextlib import contextmanager

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


def uses_bfloat16(precision: str, device: torch.device, suitable: bool) -> bool:
    """Whether networks compute in bfloat16.

    Args:
        precision: float32, bfloat16, or auto: bfloat16 on a CUDA device that computes in it, if `suitable`.
        device: where the network is.
        suitable: whether the network was made for it (`Detector.mixed_precision`).
    """
    if precision == "auto":
        return device.type == "cuda" and suitable and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16"


@contextmanager
def exact_float32() -> Iterator[None]:
    """float32 is float32: cuDNN would compute convolutions with the 10 bits of TF32 unless told not to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
