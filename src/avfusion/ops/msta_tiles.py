"""Multi-scale temporal aggregation over frequencies on the CPU; `avfusion.ops.msta` says when it is used.

Time is cut into tiles of `TILE` outputs, which read ``TILE + 2 reach`` steps. A tile and the kernel are
transformed (a discrete Fourier transform in real numbers), multiplied, and transformed back. Frequency f of a
tile x of N steps is (c.x, -s.x), with c and s the cosines and sines of 2 pi f n / N; that of the kernel is
(c.w, s.w), as a layer correlates. With their sums as third planes, a complex product is three real ones: the
products p of the planes give the real part p0 - p1 and the imaginary part p2 - p0 - p1. Frequencies 0 and
N / 2 are real. Planes are (plane, channel, video and tile): first the cosines of all frequencies, then the
sines and the sums of all but these two.

What costs is one operator, whose kernels in C++ form the planes of a few output channels at a time, in the
cache and from the branches' own weights; the transforms of features and outputs are matrix products.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from avfusion.ops._extension import register

PRODUCTS = "msta_products(Tensor planes, Tensor[] weights, int[] taps, int steps) -> Tensor"
PRODUCTS_BACKWARD = (
    "msta_products_backward(Tensor grad, Tensor planes, Tensor[] weights, int[] taps, int steps,"
    " bool features) -> (Tensor grad_planes, Tensor[] grad_weights)"
)
TILE = 24  # outputs of a tile, even; fewer cost more products, more cost larger transformed kernels


def convolve_on_cpu(features: Tensor, weights: Sequence[Tensor], taps: Sequence[int]) -> Tensor:
    """Sum of the branches of a layer, without biases.

    Args:
        features: float32 or float64 (B, C, T).
        weights: of each branch (O, C, 1, taps), of the same type.
        taps: offsets in snippets of all branches, in the order of their weights.

    Returns:
        (B, O, T); differentiable once in features and weights.
    """
    summed: Tensor = _TiledConvolution.apply(features, taps, *weights)
    return summed


def _reach(taps: Sequence[int]) -> int:
    return max(abs(tap) for tap in taps)


def _waves(steps: int, places: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of all frequencies at some places, and sines of all but the first and the last."""
    half = steps // 2
    angle = 2 * math.pi / steps * torch.arange(half + 1, dtype=torch.float64)[:, None] * places
    return torch.cos(angle), torch.sin(angle[1:half])


def _to_planes(steps: int, like: Tensor) -> Tensor:
    """Matrix (planes, steps) that transforms a tile."""
    cosine, sine = _waves(steps, torch.arange(steps, dtype=torch.float64))
    return torch.cat([cosine, -sine, cosine[1:-1] - sine]).to(like.dtype)


def _to_outputs(steps: int, reach: int, like: Tensor) -> Tensor:
    """Matrix (planes, outputs of a tile) that takes products back."""
    cosine, sine = _waves(steps, torch.arange(reach, reach + TILE, dtype=torch.float64))
    inner = cosine[1:-1]
    real = torch.cat([cosine[:1], 2 * (inner + sine), cosine[-1:]])
    return (torch.cat([real, 2 * (sine - inner), -2 * sine]) / steps).to(like.dtype)


class _TiledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, taps: Sequence[int], *weights: Tensor) -> Tensor:
        batch, channels, frames = features.shape
        outputs, reach, tiles = weights[0].shape[0], _reach(taps), -(-frames // TILE)
        steps = TILE + 2 * reach
        padded = functional.pad(features, (reach, reach + tiles * TILE - frames))
        cut = padded.transpose(0, 1).unfold(2, steps, TILE).reshape(-1, steps)
        planes = torch.mm(_to_planes(steps, features), cut.t()).reshape(-1, channels, batch * tiles)
        products = torch.ops.avfusion.msta_products(planes, list(weights), list(taps), steps)
        ctx.save_for_backward(planes, *weights)
        ctx.taps, ctx.frames, ctx.batch = taps, frames, batch
        summed = torch.mm(products.flatten(1).t(), _to_outputs(steps, reach, features))
        return summed.reshape(outputs, batch, tiles * TILE).transpose(0, 1)[:, :, :frames]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        planes, *weights = ctx.saved_tensors
        outputs, reach, tiles = weights[0].shape[0], _reach(ctx.taps), -(-ctx.frames // TILE)
        steps = TILE + 2 * reach
        padded = functional.pad(grad, (0, tiles * TILE - ctx.frames))
        cut = padded.transpose(0, 1).reshape(-1, TILE)
        products = torch.mm(_to_outputs(steps, reach, grad), cut.t()).reshape(len(planes), outputs, -1)
        grad_planes, grad_weights = torch.ops.avfusion.msta_products_backward(
            products, planes, weights, list(ctx.taps), steps, ctx.needs_input_grad[0]
        )
        if not ctx.needs_input_grad[0]:
            return None, None, *grad_weights
        pieces = torch.mm(grad_planes.flatten(1).t(), _to_planes(steps, grad))
        added = _overlap_add(pieces.reshape(-1, tiles, steps))[:, reach : reach + ctx.frames]
        return added.reshape(-1, ctx.batch, ctx.frames).transpose(0, 1), None, *grad_weights


def _overlap_add(pieces: Tensor) -> Tensor:
    """Sum of the tiles (rows, tiles, steps), each `TILE` steps after the one before."""
    rows, tiles, steps = pieces.shape
    parts = -(-steps // TILE)
    total = pieces.new_zeros(rows, tiles + parts - 1, TILE)
    for part in range(parts):
        piece = pieces[:, :, part * TILE : (part + 1) * TILE]
        total[:, part : part + tiles, : piece.shape[2]] += piece
    return total.flatten(1)


def _kernel_planes(weights: Sequence[Tensor], taps: Sequence[int], steps: int) -> tuple[Tensor, Tensor]:
    """Matrix (planes, taps) that transforms a kernel, and the planes (plane, O, C) of the branches' sum."""
    cosine, sine = _waves(steps, torch.tensor(taps, dtype=torch.float64))
    matrix = torch.cat([cosine, sine, cosine[1:-1] + sine]).to(weights[0])
    stacked = torch.cat([weight.squeeze(2) for weight in weights], 2)
    planes = torch.mm(matrix, stacked.flatten(0, 1).t()).reshape(-1, *stacked.shape[:2])
    return matrix, planes


def reference_products(planes: Tensor, weights: Sequence[Tensor], taps: Sequence[int], steps: int) -> Tensor:
    """Product of every plane of the features (plane, C, tiles) with that of the kernel, in plain torch."""
    return torch.bmm(_kernel_planes(weights, taps, steps)[1], planes)


def reference_products_backward(
    grad: Tensor, planes: Tensor, weights: Sequence[Tensor], taps: Sequence[int], steps: int, features: bool
) -> tuple[Tensor, list[Tensor]]:
    """Gradients in planes (without elements if not `features`) and weights, in plain torch."""
    matrix, kernel = _kernel_planes(weights, taps, steps)
    grad_kernel = torch.bmm(grad, planes.transpose(1, 2))
    grad_taps = torch.mm(grad_kernel.flatten(1).t(), matrix).reshape(*kernel.shape[1:], 1, -1)
    parts = grad_taps.split([weight.shape[3] for weight in weights], 3)
    grad_planes = torch.bmm(kernel.transpose(1, 2), grad) if features else grad.new_empty(0)
    return grad_planes, [part.contiguous() for part in parts]


def _fake(planes: Tensor, weights: Sequence[Tensor], taps: Sequence[int], steps: int) -> Tensor:
    return planes.new_empty(planes.shape[0], weights[0].shape[0], planes.shape[2])


def _fake_backward(
    grad: Tensor, planes: Tensor, weights: Sequence[Tensor], taps: Sequence[int], steps: int, features: bool
) -> tuple[Tensor, list[Tensor]]:
    grad_planes = planes.new_empty(planes.shape) if features else planes.new_empty(0)
    return grad_planes, [weight.new_empty(weight.shape) for weight in weights]


register(PRODUCTS, reference_products, _fake)
register(PRODUCTS_BACKWARD, reference_products_backward, _fake_backward)
