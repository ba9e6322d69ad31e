"""Merging the kernels of several convolutions over the same features into the kernel of one, and back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avfusion.ops._extension import register

MERGE = "merge_taps(Tensor[] weights, int[] places, int width) -> Tensor"
SPLIT = "split_taps(Tensor grad, int[] places, int[] counts) -> Tensor[]"
LARGEST = {"branches": 8, "taps": 256, "width": 256}  # that the CUDA kernel takes


def merge_taps(weights: Sequence[Tensor], places: Sequence[int], width: int) -> Tensor:
    """Sum of kernels, each tap at its place.

    Args:
        weights: of each branch (O, C, 1, taps).
        places: of all taps, branch by branch, where in the sum it stands.
        width: taps of the sum.

    Returns:
        (O, C, width); differentiable in the weights.
    """
    sizes = {"branches": len(weights), "taps": len(places), "width": width}
    if any(sizes[name] > most for name, most in LARGEST.items()):
        return reference_merge_taps(weights, places, width)
    merged: Tensor = torch.ops.avfusion.merge_taps(list(weights), list(places), width)
    return merged


def reference_merge_taps(weights: Sequence[Tensor], places: Sequence[int], width: int) -> Tensor:
    """`merge_taps` in plain torch."""
    stacked = torch.cat([weight.squeeze(2) for weight in weights], dim=2)
    kernel = stacked.new_zeros(*stacked.shape[:2], width)
    return kernel.index_add(2, torch.tensor(places, device=stacked.device), stacked)


def reference_split_taps(grad: Tensor, places: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
    """Gradient of the weights: what stands at the place of each tap."""
    taken = grad.index_select(2, torch.tensor(places, device=grad.device)).unsqueeze(2)
    return [part.contiguous() for part in taken.split(list(counts), dim=3)]


def _fake_merge(weights: Sequence[Tensor], places: Sequence[int], width: int) -> Tensor:
    return weights[0].new_empty(*weights[0].shape[:2], width)


def _fake_split(grad: Tensor, places: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
    return [grad.new_empty(*grad.shape[:2], 1, count) for count in counts]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weights, ctx.places, _ = inputs
    ctx.counts = [weight.shape[3] for weight in weights]


def _gradient(ctx: Any, grad: Tensor) -> tuple[list[Tensor], None, None]:
    return torch.ops.avfusion.split_taps(grad, ctx.places, ctx.counts), None, None


register(MERGE, reference_merge_taps, _fake_merge)
register(SPLIT, reference_split_taps, _fake_split)
torch.library.register_autograd("avfusion::merge_taps", _gradient, setup_context=_save)
