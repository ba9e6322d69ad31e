"""Multi-scale temporal aggregation (MUSES) as one convolution.

A branch views time as units of u snippets and convolves over rows (units) and columns (snippets within a
unit); the published code does this with a deformable convolution whose offsets never change. A kernel of
(rows, columns) over units of u therefore reads the fixed taps ``row * u + column`` around every snippet, and
the sum of several branches is one convolution whose kernel is the sum of theirs. For the four branches of
MUSES (1x3 over 3; 3x3 over 3, 6, 9) these are exactly the taps -10 to 10.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

KernelSize = tuple[int, int]  # rows (units) and columns (snippets)


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
    taps = [branch_taps(size, unit) for size, unit in zip(kernel_sizes, units, strict=True)]
    for weight, offsets in zip(weights, taps, strict=True):
        if weight.ndim != 4 or weight.shape[2:] != (1, len(offsets)):
            raise ValueError(f"weights must be (O, C, 1, {len(offsets)}), not {tuple(weight.shape)}")
    reach = max(abs(tap) for offsets in taps for tap in offsets)
    place = torch.tensor([tap + reach for offsets in taps for tap in offsets], device=weights[0].device)
    stacked = torch.cat([weight.squeeze(2) for weight in weights], dim=2)
    kernel = stacked.new_zeros(*stacked.shape[:2], 2 * reach + 1)
    return kernel.index_add(2, place, stacked)


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

    Source: ``MSTALayer`` with fusion type "add" of the MUSES code (Liu et al., CVPR 2021, section 4.2).
    """
    kernel = merge_branches(weights, kernel_sizes, units)
    # Not stack and sum: its backward would give all branches one gradient in the same memory (torch 2.13),
    # and a second backward would add to it once per branch.
    bias = functools.reduce(torch.add, biases)
    return functional.conv1d(features, kernel, bias, padding=kernel.shape[2] // 2)
