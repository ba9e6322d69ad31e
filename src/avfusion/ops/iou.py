"""Temporal intersection over union of tensors."""

import torch
from torch import Tensor

from avfusion.ops._extension import register

SCHEMA = "iou1d(Tensor a, Tensor b) -> Tensor"


def iou1d(a: Tensor, b: Tensor) -> Tensor:
    """Overlap (tIoU) of every segment of one set with every segment of another.

    Args:
        a: (N, 2) of [start, end].
        b: (M, 2), in the same unit.

    Returns:
        (N, M) in [0, 1]; 0 for segments that touch and for two of no length. (The published code lets the
        value of disjoint segments become negative, which no threshold notices.) Differentiable; what needs no
        gradient is computed in C++ on the CPU, with the same bits.

    Raises:
        ValueError: not real numbers (N, 2) and (M, 2) on one device, or NaN among them. On CUDA and in
            compiled code NaN does not raise, because to look for it would wait for the device: it gives NaN.
    """
    for name, segments in (("a", a), ("b", b)):
        numbers = not segments.is_complex() and segments.dtype != torch.bool
        if segments.ndim != 2 or segments.shape[1] != 2 or not numbers or segments.device != a.device:
            raise ValueError(
                f"{name} must be segments (N, 2) on {a.device}, "
                f"not {segments.dtype} {tuple(segments.shape)} on {segments.device}"
            )
    on_cpu, compiling = a.device.type == "cpu", torch.compiler.is_compiling()
    needs_grad = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    fits = a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64)
    if on_cpu and fits and not needs_grad and not compiling:
        overlap: Tensor = torch.ops.avfusion.iou1d(a, b)
        return overlap
    if on_cpu and not compiling:
        refuse_nan(a=a, b=b)
    return _formula(a, b)


def refuse_nan(**arguments: Tensor) -> None:
    """What the references do about values that have no order."""
    for name, values in arguments.items():
        if values.isnan().any():
            raise ValueError(f"{name} must not be NaN")


def _formula(a: Tensor, b: Tensor) -> Tensor:
    shared = a[:, None, 1].minimum(b[None, :, 1]) - a[:, None, 0].maximum(b[None, :, 0])
    shared = shared.clamp(min=0)
    whole = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - shared
    return shared / whole.masked_fill(whole <= 0, 1)


def reference_iou1d(a: Tensor, b: Tensor) -> Tensor:
    """`iou1d` in plain torch."""
    refuse_nan(a=a, b=b)
    return _formula(a, b)


def _fake(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[0])


register(SCHEMA, reference_iou1d, _fake)
