"""The sizes and the comparisons that the benchmarks of the CPU and of the GPU share."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from avfusion.ops import msta_conv1d
from avfusion.ops.msta import branch_taps

KERNEL_SIZES = [(1, 3), (3, 3), (3, 3), (3, 3)]
UNITS = [3, 3, 6, 9]
WIDTHS = [1024, 384, 512]  # of MUSES: features, first and second layer


@dataclass(frozen=True)
class Layers:
    """Weights and biases of the branches of MUSES' two layers."""

    weights: list[list[Tensor]]
    biases: list[list[Tensor]]

    def parameters(self) -> list[Tensor]:
        """All of them."""
        return [tensor for layer in (*self.weights, *self.biases) for tensor in layer]


def muses_layers(device: str) -> Layers:
    """Parameters of the right sizes, the same every time."""
    generator = torch.Generator().manual_seed(0)

    def parameter(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * 0.01).to(device).requires_grad_()

    pairs = list(itertools.pairwise(WIDTHS))
    sizes = [rows * columns for rows, columns in KERNEL_SIZES]
    return Layers(
        [[parameter(o, c, 1, taps) for taps in sizes] for c, o in pairs],
        [[parameter(o) for _ in sizes] for _, o in pairs],
    )


Branch = Callable[[Tensor, Tensor, Tensor, tuple[int, int], int], Tensor]


def branch_by_branch(features: Tensor, layers: Layers, branch: Branch) -> Tensor:
    """Both layers with their ReLU, the branches computed one by one and added."""
    for weights, biases in zip(layers.weights, layers.biases, strict=True):
        parts = zip(weights, biases, KERNEL_SIZES, UNITS, strict=True)
        outputs = [branch(features, weight, bias, size, unit) for weight, bias, size, unit in parts]
        features = sum(outputs[1:], outputs[0]).relu()
    return features


def merged(features: Tensor, layers: Layers) -> Tensor:
    """Both layers with their ReLU by `msta_conv1d`."""
    for weights, biases in zip(layers.weights, layers.biases, strict=True):
        features = msta_conv1d(features, weights, biases, KERNEL_SIZES, UNITS).relu()
    return features


def gather_and_multiply(
    features: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int], unit: int
) -> Tensor:
    """A branch as a deformable convolution computes it: gather what every tap reads, then one product."""
    reach, place = _gathered(size, unit, features.shape[2], features.device)
    columns = functional.pad(features, (reach, reach))[:, :, place]
    flat = columns.reshape(features.shape[0], -1, features.shape[2])
    return weight.reshape(weight.shape[0], -1) @ flat + bias[:, None]


@functools.cache
def _gathered(size: tuple[int, int], unit: int, frames: int, device: torch.device) -> tuple[int, Tensor]:
    """Padding at either end, and where in the padded features every tap of every frame reads."""
    taps = torch.tensor(branch_taps(size, unit), device=device)
    reach = int(taps.abs().max())
    return reach, torch.arange(frames, device=device) + taps[:, None] + reach


def gtad_anchors(frames: int, durations: int, device: str) -> Tensor:
    """G-TAD's grid (A, 2), durations outermost: half a length more on either side, impossible ones [0, 0]."""
    length = torch.arange(1, durations + 1, dtype=torch.float32)[:, None].expand(durations, frames)
    start = torch.arange(frames, dtype=torch.float32).expand(durations, frames)
    grid = torch.stack([start - length / 2, start + length * 1.5], -1)
    grid[start + length > frames] = 0
    return grid.reshape(-1, 2).to(device)


def backward(output: Tensor, inputs: Sequence[Tensor], grad: Tensor) -> None:
    """Gradients of `inputs`, thrown away."""
    torch.autograd.grad(output, inputs, grad)
