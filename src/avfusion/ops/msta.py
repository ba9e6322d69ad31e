"""Multi-scale temporal aggregation (MUSES) as one convolution.

A branch views time as units of u snippets and convolves over rows (units) and columns (snippets within a
unit); the published code does this with a deformable convolution whose offsets never change. A kernel of
(rows, columns) over units of u therefore reads the fixed taps ``row * u + column`` around every snippet, and
the sum of several branches is one convolution whose kernel is the sum of theirs. For the four branches of
MUSES (1x3 over 3; 3x3 over 3, 6, 9) these are exactly the taps -10 to 10.

Long features in full precision are convolved over frequencies, where 21 multiplications per output are 3:
tiles of 40 steps and the kernel are transformed (a discrete Fourier transform in real numbers, a complex
product being three real ones), multiplied, and transformed back. All of it is matrix products, and so are the
gradients.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from avfusion.ops.msta_tiles import convolve_on_cpu

KernelSize = tuple[int, int]  # rows (units) and columns (snippets)
TILE = 20  # outputs of a tile; fewer cost more products, more cost larger transformed kernels
SLICE = 64  # output channels at a time on the CPU, so that their transformed kernels stay in the cache
LONG = {"cpu": 400, "cuda": 2000}  # steps of all videos from which transforming the kernel pays


def branch_taps(kernel_size: KernelSize, unit: int) -> list[int]:
    """Offsets in snippets that a branch reads, in the order of its weights (row by row).

    Raises:
        ValueError: an even number of rows or columns, which has no centre.
    """
    rows, columns = kernel_size
    if rows % 2 == 0 or columns % 2 == 0 or unit < 1:
        raise ValueError(
            f"kernel {kernel_size} over units of {unit}: rows and columns must be odd, units positive"
        )
    return [
        row * unit + column
        for row in range(-(rows // 2), rows // 2 + 1)
        for column in range(-(columns // 2), columns // 2 + 1)
    ]


def merge_branches(
    weights: Sequence[Tensor], kernel_sizes: Sequence[KernelSize], units: Sequence[int]
) -> Tensor:
    """The kernel (O, C, 2 R + 1) of the one convolution that equals the sum of the branches.

    Args:
        weights: of each branch (O, C, 1, rows * columns), the layout of the published checkpoints.
        kernel_sizes: rows and columns of each branch.
        units: snippets per unit of each branch.
    """
    taps = _check_branches(weights, kernel_sizes, units)
    reach = max(abs(tap) for offsets in taps for tap in offsets)
    place = torch.tensor([tap + reach for offsets in taps for tap in offsets])
    if weights[0].is_cuda:  # a copy from other memory would wait for all that the device has still to do
        place = place.pin_memory().to(weights[0].device, non_blocking=True)
    stacked = torch.cat([weight.squeeze(2) for weight in weights], dim=2)
    kernel = stacked.new_zeros(*stacked.shape[:2], 2 * reach + 1)
    return kernel.index_add(2, place, stacked)


def _check_branches(
    weights: Sequence[Tensor], kernel_sizes: Sequence[KernelSize], units: Sequence[int]
) -> list[list[int]]:
    """Taps of every branch, whose weights must fit them."""
    if not len(weights) == len(kernel_sizes) == len(units):
        raise ValueError(
            "weights, kernel_sizes and units must be one per branch, "
            f"not {len(weights)}, {len(kernel_sizes)} and {len(units)}"
        )
    taps = [branch_taps(size, unit) for size, unit in zip(kernel_sizes, units, strict=True)]
    for weight, offsets in zip(weights, taps, strict=True):
        if weight.ndim != 4 or weight.shape[2:] != (1, len(offsets)):
            raise ValueError(f"weights must be (O, C, 1, {len(offsets)}), not {tuple(weight.shape)}")
    return taps


def msta_conv1d(
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    kernel_sizes: Sequence[KernelSize],
    units: Sequence[int],
) -> Tensor:
    """Sum of the branches of a multi-scale temporal aggregation layer, computed as one convolution.

    Args:
        features: (B, C, T); beyond its ends there are zeros.
        weights: of each branch (O, C, 1, rows * columns).
        biases: of each branch (O,).
        kernel_sizes: rows and columns of each branch.
        units: snippets per unit of each branch.

    Returns:
        (B, O, T); differentiable in features, weights and biases.

    Raises:
        ValueError: shapes, types or numbers of branches that do not fit.

    Source: ``MSTALayer`` with fusion type "add" of the MUSES code (Liu et al., CVPR 2021, section 4.2).
    """
    _check_layer(features, weights, biases)
    _check_branches(weights, kernel_sizes, units)
    # Not stack and sum: its backward would give all branches one gradient in the same memory (torch 2.13),
    # and a second backward would add to it once per branch.
    bias = functools.reduce(torch.add, biases)
    if _tiles_pay(features):
        return convolve_tiles(features, weights, kernel_sizes, units) + bias[:, None]
    kernel = merge_branches(weights, kernel_sizes, units)
    return functional.conv1d(features, kernel, bias, padding=kernel.shape[2] // 2)


def _check_layer(features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    if features.ndim != 3 or features.shape[2] == 0 or not features.is_floating_point():
        raise ValueError(
            f"features must be floating point (B, C, T > 0), not {features.dtype} {tuple(features.shape)}"
        )
    if not weights or len(weights) != len(biases):
        raise ValueError(f"weights and biases must be one per branch, not {len(weights)} and {len(biases)}")
    shape = (weights[0].shape[0], features.shape[1])
    free = torch.is_autocast_enabled(features.device.type)  # to cast what is floating point
    for name, parameters in (("weights", weights), ("biases", biases)):
        for parameter in parameters:
            if not (free and parameter.is_floating_point()) and parameter.dtype != features.dtype:
                raise ValueError(f"{name} must be {features.dtype} as features, not {parameter.dtype}")
    for weight, bias in zip(weights, biases, strict=True):
        if weight.shape[:2] != shape or weight.device != features.device:
            raise ValueError(
                f"weights must be (O, {shape[1]}, 1, taps) on {features.device}, all with the same O, "
                f"not {tuple(weight.shape)} on {weight.device}"
            )
        if bias.shape != shape[:1] or bias.device != features.device:
            raise ValueError(
                f"biases must be ({shape[0]},) on {features.device}, not {tuple(bias.shape)} on {bias.device}"
            )


def convolve_tiles(
    features: Tensor, weights: Sequence[Tensor], kernel_sizes: Sequence[KernelSize], units: Sequence[int]
) -> Tensor:
    """`msta_conv1d` without biases, over frequencies whatever the device and the length."""
    taps = [tap for offsets in _check_branches(weights, kernel_sizes, units) for tap in offsets]
    if features.device.type == "cpu":
        return convolve_on_cpu(features, weights, taps)
    summed: Tensor = _TiledConvolution.apply(features, taps, *weights)
    return summed


def _tiles_pay(features: Tensor) -> bool:
    """Whether to convolve over frequencies: long features in full precision (cuDNN is faster in TF32)."""
    device = features.device.type
    if features.ndim != 3 or features.dtype not in (torch.float32, torch.float64):
        return False
    if device == "cuda" and torch.backends.cudnn.allow_tf32 and features.dtype == torch.float32:
        return False
    long = features.shape[0] * features.shape[2] >= LONG.get(device, math.inf)
    return long and not torch.is_autocast_enabled(device)


def _to_device(matrix: Tensor, like: Tensor) -> Tensor:
    """A small matrix in the type and on the device of another tensor, without waiting for the device."""
    typed = matrix.to(like.dtype)
    return typed.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else typed


def _transforms(taps: Sequence[int], reach: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices that take a tile (planes, steps), a kernel (planes, taps), and products back (steps, planes).

    Frequency f of a tile x of N steps is (c.x, -s.x), with c and s the cosines and sines of 2 pi f n / N;
    that of the kernel is (c.w, s.w), as a layer correlates. With their sums as third planes, the products p
    of the three give the real part p0 - p1 and the imaginary part p2 - p0 - p1. Those of frequencies 0
    and N / 2 are real.
    """
    steps = TILE + 2 * reach
    frequencies = torch.arange(1, (steps + 1) // 2, dtype=torch.float64)
    unit = 2 * math.pi / steps
    place = torch.arange(steps, dtype=torch.float64)
    offset = torch.tensor([tap + reach for tap in taps], dtype=torch.float64)

    def waves(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines and sines of the frequencies, and what the real ones take."""
        angle = unit * frequencies[:, None] * at
        ends = torch.stack([torch.ones_like(at), torch.cos(math.pi * at)])
        return torch.cos(angle), torch.sin(angle), ends

    cosine, sine, ends = waves(place)
    to_planes = torch.cat([ends, cosine, -sine, cosine - sine])
    cosine, sine, ends = waves(offset)
    kernel_to_planes = torch.cat([ends, cosine, sine, cosine + sine])
    cosine, sine, ends = waves(place[:TILE])
    to_outputs = torch.cat([ends, 2 * (cosine + sine), 2 * (sine - cosine), -2 * sine]) / steps
    return (
        _to_device(to_planes, like),
        _to_device(kernel_to_planes, like),
        _to_device(to_outputs.T.contiguous(), like),
    )


def _slices(outputs: int, like: Tensor) -> list[slice]:
    """Output channels to treat together: a GPU takes all, which costs it memory and saves launches."""
    size = max(1, outputs) if like.is_cuda else SLICE
    return [slice(begin, begin + size) for begin in range(0, outputs, size)]


def _stack(weights: Sequence[Tensor], outputs: slice) -> Tensor:
    """Some output channels of all branches: a row per output and input channel, a column per tap."""
    return torch.cat([weight[outputs].reshape(-1, weight.shape[3]) for weight in weights], 1)


class _TiledConvolution(torch.autograd.Function):
    """Sum of the branches without bias, (B, O, T), tile by tile over frequencies.

    Planes, of features and of products, are (plane, video and tile, channel); transformed kernels, which are
    larger than everything else, live for a slice of output channels at a time and are formed again backward.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, taps: Sequence[int], *weights: Tensor) -> Tensor:
        batch, channels, frames = features.shape
        outputs, reach, tiles = weights[0].shape[0], max(abs(tap) for tap in taps), -(-frames // TILE)
        to_planes, kernel_to_planes, to_outputs = _transforms(taps, reach, features)
        padded = functional.pad(features, (reach, reach + tiles * TILE - frames))
        cut = padded.unfold(2, TILE + 2 * reach, TILE).permute(3, 0, 2, 1).reshape(to_planes.shape[1], -1)
        planes = torch.mm(to_planes, cut).reshape(-1, batch * tiles, channels)
        summed = features.new_empty(TILE, batch * tiles, outputs)
        for some in _slices(outputs, features):
            kernel = torch.mm(kernel_to_planes, _stack(weights, some).t()).reshape(len(planes), -1, channels)
            products = torch.bmm(planes, kernel.transpose(1, 2)).reshape(len(planes), -1)
            summed[:, :, some] = torch.mm(to_outputs, products).reshape(TILE, batch * tiles, -1)
        ctx.save_for_backward(planes, *weights)
        ctx.taps, ctx.frames, ctx.batch = taps, frames, batch
        steps = summed.reshape(TILE, batch, tiles, outputs).permute(1, 3, 2, 0)
        return steps.reshape(batch, outputs, tiles * TILE)[:, :, :frames]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        planes, *weights = ctx.saved_tensors
        channels, outputs = weights[0].shape[1], weights[0].shape[0]
        reach, tiles = max(abs(tap) for tap in ctx.taps), planes.shape[1] // max(1, ctx.batch)
        to_planes, kernel_to_planes, to_outputs = _transforms(ctx.taps, reach, grad)
        padded = functional.pad(grad, (0, tiles * TILE - ctx.frames))
        cut = padded.reshape(ctx.batch, outputs, tiles, TILE).permute(3, 0, 2, 1).reshape(TILE, -1, outputs)
        grad_planes = torch.zeros_like(planes) if ctx.needs_input_grad[0] else None
        grad_weights = [torch.empty_like(weight) for weight in weights]
        for some in _slices(outputs, grad):
            part = torch.mm(to_outputs.t(), cut[:, :, some].reshape(TILE, -1))
            part = part.reshape(len(planes), planes.shape[1], -1)
            if grad_planes is not None:
                kernel = torch.mm(kernel_to_planes, _stack(weights, some).t())
                grad_planes.baddbmm_(part, kernel.reshape(len(planes), -1, channels))
            grad_kernel = torch.bmm(part.transpose(1, 2), planes).reshape(len(planes), -1)
            grad_stack = torch.mm(grad_kernel.t(), kernel_to_planes)
            columns = grad_stack.split([weight.shape[3] for weight in weights], 1)
            for to, values in zip(grad_weights, columns, strict=True):
                to[some] = values.reshape(to[some].shape)
        if grad_planes is None:
            return None, None, *grad_weights
        pieces = torch.mm(to_planes.t(), grad_planes.reshape(len(planes), -1))
        pieces = pieces.reshape(-1, ctx.batch, tiles, channels).permute(1, 3, 2, 0)
        # Neighbouring tiles share 2 * reach steps; what stood on the padding is cut off.
        shape = (ctx.batch * channels, len(to_planes.t()), tiles)
        steps = functional.fold(
            pieces.transpose(2, 3).reshape(shape),
            (1, tiles * TILE + 2 * reach),
            (1, shape[1]),
            stride=(1, TILE),
        )
        steps = steps.reshape(ctx.batch, channels, -1)[:, :, reach : reach + ctx.frames]
        return steps, None, *grad_weights
