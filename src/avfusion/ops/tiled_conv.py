"""Convolution along time over frequencies, for kernels of many taps and channels.

The features are cut into tiles that overlap by the kernel's reach; tiles and kernel are transformed (a
discrete Fourier transform in real numbers, a complex product being three real ones), multiplied, and
transformed back. For 21 taps and tiles of 20 outputs that is 59 planes of 20 outputs, 3 multiplications per
output and pair of channels where the direct way has 21. All of it is matrix products, and so are the
gradients.
"""

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avfusion.ops._extension import register_composite

SCHEMA = "tiled_conv1d(Tensor features, Tensor kernel, Tensor? bias=None) -> Tensor"
TILE = 20  # outputs of a tile; fewer cost more products, more cost larger transformed kernels


def tiled_conv1d(features: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.conv1d` with an odd kernel and zeros beyond the ends, over frequencies.

    Args:
        features: float32 or float64 (B, C, T).
        kernel: (O, C, 2 R + 1) of the same type.
        bias: (O,) of the same type.

    Returns:
        (B, O, T); differentiable in all. For the backward pass the planes of features and kernel are kept,
        which are three times as large as those.
    """
    convolved: Tensor = torch.ops.avfusion.tiled_conv1d(features, kernel, bias)
    return convolved


def reference_tiled_conv1d(features: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """`tiled_conv1d` in Python."""
    convolved: Tensor = _TiledConvolution.apply(features, kernel)
    return convolved if bias is None else convolved + bias[:, None]


@functools.lru_cache(maxsize=16)
def _transforms(reach: int) -> tuple[NDArray[np.float64], ...]:
    """Matrices that take a tile (planes, steps), a kernel (planes, taps), and products back (steps, planes).

    Frequency f of a tile x of N steps is (c.x, -s.x), with c and s the cosines and sines of 2 pi f n / N;
    that of the kernel is (c.w, s.w), as a layer correlates. With their sums as third planes, the products p
    of the three give the real part p0 - p1 and the imaginary part p2 - p0 - p1. Those of frequencies 0
    and N / 2 are real.
    """
    steps = TILE + 2 * reach
    frequencies = np.arange(1, (steps + 1) // 2)[:, None]

    def waves(count: int) -> tuple[NDArray[np.float64], ...]:
        """Cosines and sines of the frequencies, and what the real ones take."""
        place = np.arange(count)
        angle = 2 * math.pi / steps * frequencies * place
        return np.cos(angle), np.sin(angle), np.stack([np.ones(count), np.cos(math.pi * place)])

    cosine, sine, ends = waves(steps)
    to_planes = np.concatenate([ends, cosine, -sine, cosine - sine])
    cosine, sine, ends = waves(2 * reach + 1)
    kernel_to_planes = np.concatenate([ends, cosine, sine, cosine + sine])
    cosine, sine, ends = waves(TILE)
    to_outputs = np.concatenate([ends, 2 * (cosine + sine), 2 * (sine - cosine), -2 * sine]) / steps
    return to_planes, kernel_to_planes, np.ascontiguousarray(to_outputs.T)


def _transforms_like(like: Tensor, reach: int) -> list[Tensor]:
    """`_transforms` in the type and on the device of a tensor, in one copy that does not wait."""
    matrices = _transforms(reach)
    joined = torch.from_numpy(np.concatenate([matrix.ravel() for matrix in matrices])).to(like.dtype)
    if like.is_cuda:
        joined = joined.pin_memory().to(like.device, non_blocking=True)
    parts = joined.split([matrix.size for matrix in matrices])
    return [part.view(matrix.shape) for part, matrix in zip(parts, matrices, strict=True)]


class _TiledConvolution(torch.autograd.Function):
    """Planes, of features and of products, are (plane, video and tile, channel)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor) -> Tensor:
        (batch, channels, frames), (outputs, _, taps) = features.shape, kernel.shape
        reach, tiles = taps // 2, -(-frames // TILE)
        transforms = _transforms_like(features, reach)
        to_planes, kernel_to_planes, to_outputs = transforms
        padded = functional.pad(features, (reach, reach + tiles * TILE - frames))
        cut = padded.unfold(2, TILE + 2 * reach, TILE).permute(3, 0, 2, 1).reshape(to_planes.shape[1], -1)
        planes = torch.mm(to_planes, cut).reshape(-1, batch * tiles, channels)
        of_kernel = _transformed(kernel, kernel_to_planes)
        products = torch.bmm(planes, of_kernel.permute(1, 2, 0))
        steps = torch.mm(to_outputs, products.reshape(len(planes), -1))
        ctx.save_for_backward(planes, of_kernel, *transforms)
        ctx.frames, ctx.batch, ctx.taps = frames, batch, taps
        ordered = steps.reshape(TILE, batch, tiles, outputs).permute(1, 3, 2, 0)
        return ordered.reshape(batch, outputs, tiles * TILE)[:, :, :frames]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        planes, of_kernel, to_planes, kernel_to_planes, to_outputs = ctx.saved_tensors
        outputs, _, channels = of_kernel.shape
        taps = ctx.taps
        reach, tiles = taps // 2, planes.shape[1] // max(1, ctx.batch)
        padded = functional.pad(grad, (0, tiles * TILE - ctx.frames))
        cut = padded.reshape(ctx.batch, outputs, tiles, TILE).permute(3, 0, 2, 1).reshape(TILE, -1)
        products = torch.mm(to_outputs.t(), cut).reshape(len(planes), planes.shape[1], outputs)
        grad_kernel, steps = None, None
        if ctx.needs_input_grad[1]:
            summed = torch.bmm(products.transpose(1, 2), planes).transpose(0, 1)
            back = kernel_to_planes.t().expand(outputs, taps, len(planes))
            grad_kernel = torch.bmm(back, summed).transpose(1, 2)
        if ctx.needs_input_grad[0]:
            summed = torch.bmm(products, of_kernel.transpose(0, 1))
            pieces = torch.mm(to_planes.t(), summed.reshape(len(planes), -1))
            steps = _laid_over(pieces.reshape(-1, ctx.batch, tiles, channels), ctx.frames, reach)
        return steps, grad_kernel


def _transformed(kernel: Tensor, kernel_to_planes: Tensor) -> Tensor:
    """A kernel (O, C, taps), in memory best (O, taps, C), as (O, planes, C)."""
    by_tap = kernel.transpose(1, 2).contiguous()
    return torch.bmm(kernel_to_planes.expand(len(kernel), *kernel_to_planes.shape), by_tap)


def _laid_over(pieces: Tensor, frames: int, reach: int) -> Tensor:
    """Sum of overlapping tiles (steps, B, tiles, C) as (B, C, T); what stood on the padding is cut off."""
    span, batch, tiles, channels = pieces.shape
    columns = pieces.permute(1, 3, 0, 2).reshape(batch * channels, span, tiles)
    size = (1, tiles * TILE + 2 * reach)
    steps = functional.fold(columns, size, (1, span), stride=(1, TILE))
    return steps.reshape(batch, channels, -1)[:, :, reach : reach + frames]


register_composite(SCHEMA, reference_tiled_conv1d)
