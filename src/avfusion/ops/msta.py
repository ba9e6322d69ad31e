"""Multi-scale temporal aggregation (MUSES) as one convolution.

A branch views time as units of u snippets and convolves over rows (units) and columns (snippets within a
unit); the published code does this with a deformable convolution whose offsets never change. A kernel of
(rows, columns) over units of u therefore reads the fixed taps ``row * u + column`` around every snippet, and
the sum of several branches is one convolution whose kernel is the sum of theirs. For the four branches of
MUSES (1x3 over 3; 3x3 over 3, 6, 9) these are exactly the taps -10 to 10.

Features in full precision, on a CPU if they are long or wide, are convolved over frequencies, where 21
multiplications per output are 3: `avfusion.ops.msta_tiles` on a CPU, `avfusion.ops.tiled_conv` on CUDA. The
first transforms the branches' kernels slice by slice, which then never leave the cache; the second, for which
a launch costs more than a pass over memory, merges them first.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from avfusion.ops._extension import register_composite
from avfusion.ops.merge_taps import fits, merge_taps
from avfusion.ops.msta_tiles import convolve_on_cpu
from avfusion.ops.tiled_conv import tiled_conv1d

KernelSize = tuple[int, int]  # rows (units) and columns (snippets)
SCHEMA = (
    "msta_conv1d(Tensor features, Tensor[] weights, Tensor[] biases, int[] places, int width,"
    " bool over_frequencies) -> Tensor"
)
LONG = 400  # steps of all videos from which transforming the kernel pays on a CPU,
WIDE = 256 * 256  # unless there are so many pairs of channels: then it always does


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
    return merge_taps(weights, [], *_places(_check_branches(weights, kernel_sizes, units)))[0]


def _places(taps: Sequence[int]) -> tuple[list[int], int]:
    """Where in the merged kernel the taps of the branches stand, and how many taps it has."""
    reach = max(abs(tap) for tap in taps)
    return [tap + reach for tap in taps], 2 * reach + 1


def _check_branches(
    weights: Sequence[Tensor], kernel_sizes: Sequence[KernelSize], units: Sequence[int]
) -> list[int]:
    """Taps of all branches, whose weights must fit them."""
    if not len(weights) == len(kernel_sizes) == len(units):
        raise ValueError(
            "weights, kernel_sizes and units must be one per branch, "
            f"not {len(weights)}, {len(kernel_sizes)} and {len(units)}"
        )
    taps = [branch_taps(size, unit) for size, unit in zip(kernel_sizes, units, strict=True)]
    for weight, offsets in zip(weights, taps, strict=True):
        if weight.ndim != 4 or weight.shape[2:] != (1, len(offsets)):
            raise ValueError(f"weights must be (O, C, 1, {len(offsets)}), not {tuple(weight.shape)}")
    return [tap for offsets in taps for tap in offsets]


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
    taps = _check_branches(weights, kernel_sizes, units)
    tiles = _tiles_pay(features, weights[0].shape[0])
    if tiles and not features.is_cuda:
        bias = functools.reduce(torch.add, biases)
        return convolve_on_cpu(features, weights, taps) + bias[:, None]
    places, width = _places(taps)
    if not fits(weights, places, width):
        return reference_msta_conv1d(features, weights, biases, places, width, tiles)
    layer = torch.ops.avfusion.msta_conv1d
    summed: Tensor = layer(features, list(weights), list(biases), places, width, tiles)
    return summed


def reference_msta_conv1d(
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    places: Sequence[int],
    width: int,
    over_frequencies: bool,
) -> Tensor:
    """The same with the taps' places in the merged kernel, in Python."""
    kernel, bias = merge_taps(weights, biases, places, width)
    if over_frequencies:
        return tiled_conv1d(features, kernel, bias)
    return functional.conv1d(features, kernel, bias, padding=width // 2)


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


def _tiles_pay(features: Tensor, outputs: int) -> bool:
    """Whether to convolve over frequencies: in full precision (cuDNN is faster in TF32), and much."""
    device = features.device.type
    if features.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(device):
        return False
    if device == "cuda":
        tf32 = torch.backends.cudnn.allow_tf32 and features.dtype == torch.float32
        return not (tf32 or torch.compiler.is_compiling())
    batch, channels, frames = features.shape
    return device == "cpu" and (channels * outputs >= WIDE or batch * frames >= LONG)


register_composite(SCHEMA, reference_msta_conv1d)
