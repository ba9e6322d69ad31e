"""Merging the kernels of several convolutions over the same features into the kernel of one, and back."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avfusion.ops._extension import extension_status, register

MERGE = (
    "merge_taps(Tensor[] weights, Tensor[] biases, int[] places, int width) -> (Tensor kernel, Tensor bias)"
)
SPLIT = "split_taps(Tensor grad, int[] places, int[] counts) -> Tensor[]"
LARGEST = {"branches": 8, "taps": 256, "width": 256}  # that the CUDA kernel takes


def merge_taps(
    weights: Sequence[Tensor], biases: Sequence[Tensor], places: Sequence[int], width: int
) -> tuple[Tensor, Tensor]:
    """Sum of kernels, each tap at its place, and of biases.

    Args:
        weights: of each branch (O, C, 1, taps).
        biases: of each branch (O,), or of none.
        places: of all taps, branch by branch, where in the sum it stands.
        width: taps of the sum.

    Returns:
        (O, C, width), on CUDA a view of (O, width, C), and (O,); differentiable in weights and biases.
    """
    if fits(weights, places, width):
        kernel, bias = torch.ops.avfusion.merge_taps(list(weights), list(biases), list(places), width)
        return kernel, bias
    return reference_merge_taps(weights, biases, places, width)


def fits(weights: Sequence[Tensor], places: Sequence[int], width: int) -> bool:
    """Whether the operator takes so many branches and taps."""
    sizes = {"branches": len(weights), "taps": len(places), "width": width}
    return all(sizes[name] <= most for name, most in LARGEST.items())


def reference_merge_taps(
    weights: Sequence[Tensor], biases: Sequence[Tensor], places: Sequence[int], width: int
) -> tuple[Tensor, Tensor]:
    """`merge_taps` in plain torch."""
    stacked = torch.cat([weight.squeeze(2) for weight in weights], dim=2)
    kernel = stacked.new_zeros(*stacked.shape[:2], width)
    kernel = kernel.index_add(2, torch.tensor(places, device=stacked.device), stacked)
    # Not stack and sum: its backward would give all branches one gradient in the same memory (torch 2.13),
    # and a second backward would add to it once per branch.
    bias = functools.reduce(torch.add, biases) if biases else stacked.new_zeros(len(stacked))
    return kernel, bias.clone() if len(biases) == 1 else bias


def reference_split_taps(grad: Tensor, places: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
    """Gradient of the weights: what stands at the place of each tap."""
    taken = grad.index_select(2, torch.tensor(places, device=grad.device)).unsqueeze(2)
    return [part.contiguous() for part in taken.split(list(counts), dim=3)]


def _fake_merge(
    weights: Sequence[Tensor], biases: Sequence[Tensor], places: Sequence[int], width: int
) -> tuple[Tensor, Tensor]:
    outputs, channels = weights[0].shape[:2]
    bias = weights[0].new_empty(outputs)
    if weights[0].is_cuda and extension_status().cuda:
        return weights[0].new_empty(outputs, width, channels).transpose(1, 2), bias
    return weights[0].new_empty(outputs, channels, width), bias


def _fake_split(grad: Tensor, places: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
    return [grad.new_empty(*grad.shape[:2], 1, count) for count in counts]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    weights, biases, ctx.places, _ = inputs
    ctx.counts, ctx.biases = [weight.shape[3] for weight in weights], len(biases)
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor | None, of_bias: Tensor | None) -> tuple[Any, ...]:
    parts = [None] * len(ctx.counts)
    if grad is not None:
        parts = torch.ops.avfusion.split_taps(grad, ctx.places, ctx.counts)
    return parts, [of_bias] * ctx.biases, None, None


register(MERGE, reference_merge_taps, _fake_merge)
register(SPLIT, reference_split_taps, _fake_split)
if not extension_status().loaded:  # which has it in C++, as Python takes longer than a GPU
    torch.library.register_autograd("avfusion::merge_taps", _gradient, setup_context=_save)
