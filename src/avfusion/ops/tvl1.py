"""TV-L1 optical flow of pairs of images, for the CPU in C++ and for CUDA.

Zach, Pock, Bischof: A duality based approach for realtime TV-L1 optical flow (DAGM 2007). For a flow u, from
coarse to fine: warp the second image along u and linearise the difference there; then alternate between a
thresholding step, which reduces the difference, and the dual of total variation denoising of u; warp again.

The choices that the paper leaves open are those of OpenCV's ``DualTVL1OpticalFlow`` with its parameters,
which published two-stream features were made with: a pyramid by bilinear resizing that ends above 16 pixels,
central differences, images and derivatives warped by cubic convolution with zeros around them, a 5x5 median
filter of the flow before every round of inner iterations, and the end of all rounds of a warp when the mean
square change of an iteration falls to ``epsilon ** 2``.

What differs from OpenCV 5: roundings (two divisions and a square root are computed otherwise). Every step
agrees to 1e-6 pixels, but warping at 25 places of a pyramid amplifies a last digit where the flow is not
determined by the images, and can move the end of the iterations by one. The whole therefore agrees as well
as OpenCV with itself when grey values change by 1e-5 (tests/parity/test_flow.py). Earlier versions of OpenCV
also round the places that they read to 1/32 pixel when warping; ours does not, as OpenCV 5.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avfusion.ops._extension import register
from avfusion.options import require

SCHEMA = (
    "tvl1_flow(Tensor first, Tensor second, float tau, float weight, float theta, int scales, int warps,"
    " float epsilon, int inner, int outer, float scale_step, int median) -> Tensor"
)
SMALLEST = 16  # pixels; a level of the pyramid is not smaller
MAX_SCALES = 32


@dataclass(frozen=True)
class TVL1Options:
    """Parameters of TV-L1; the defaults are OpenCV's, as published.

    Attributes:
        tau: time step of the dual variables.
        weight: of the data term, lambda of the paper; the smaller, the smoother.
        theta: how far the flow of the two alternating steps may differ.
        scales: levels of the pyramid, at most; fewer where one would be smaller than 16 pixels.
        warps: times that the second image is warped, on every level.
        epsilon: root mean square change in pixels at which the iterations of a warp end.
        inner: iterations between two medians, at most.
        outer: rounds of inner iterations per warp, at most.
        scale_step: size of a level relative to the finer one.
        median: pixels across that the flow is filtered over before every round; 5, or 1 for none.
    """

    tau: float = 0.25
    weight: float = 0.15
    theta: float = 0.3
    scales: int = 5
    warps: int = 5
    epsilon: float = 0.01
    inner: int = 30
    outer: int = 10
    scale_step: float = 0.8
    median: int = 5

    def __post_init__(self) -> None:
        for name in ("tau", "weight", "theta"):
            require(getattr(self, name) > 0, name, f"must be positive, not {getattr(self, name)}")
        for name in ("warps", "inner", "outer"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        require(1 <= self.scales <= MAX_SCALES, "scales", f"must be 1 to {MAX_SCALES}, not {self.scales}")
        require(self.epsilon >= 0, "epsilon", f"must not be negative, but is {self.epsilon}")
        require(0 < self.scale_step < 1, "scale_step", f"must lie within 0 and 1, not be {self.scale_step}")
        require(self.median in (1, 5), "median", f"must be 5, or 1 for none, not {self.median}")


def tvl1_flow(first: Tensor, second: Tensor, options: TVL1Options | None = None) -> Tensor:
    """Motion from images to those that follow them.

    Pairs are independent: each ends its iterations by itself, and its flow does not depend on its batch. The
    CPU gives a pair to a thread (`torch.set_num_threads`), CUDA a pair to a few multiprocessors. Without a
    compiled kernel for the device (`extension_status`) plain torch computes it, many times slower. All of
    them, and all instruction sets, give equal results but for the order of the sum that ends the iterations.

    Args:
        first: uint8 (N, H, W), grey.
        second: as `first`; `second` at (x + dx, y + dy) looks like `first` at (x, y).
        options: parameters; None: the published ones.

    Returns:
        float32 (N, H, W, 2): dx and dy in pixels.

    Raises:
        ValueError: images that are not uint8, or whose shapes or devices differ.
    """
    options = options or TVL1Options()
    if first.dtype != torch.uint8 or first.ndim != 3 or 0 in first.shape[1:]:
        raise ValueError(f"first must be uint8 (N, H, W), not {first.dtype} {tuple(first.shape)}")
    if (second.dtype, second.shape, second.device) != (first.dtype, first.shape, first.device):
        raise ValueError(
            f"second must be {first.dtype} {tuple(first.shape)} on {first.device} as first, "
            f"not {second.dtype} {tuple(second.shape)} on {second.device}"
        )
    flow: Tensor = torch.ops.avfusion.tvl1_flow(first, second, *_arguments(options))
    return flow


def _arguments(options: TVL1Options) -> tuple[float | int, ...]:
    """The options in the order of the schema."""
    return (
        *(options.tau, options.weight, options.theta, options.scales, options.warps, options.epsilon),
        *(options.inner, options.outer, options.scale_step, options.median),
    )


def reference_tvl1_flow(first: Tensor, second: Tensor, *arguments: float | int) -> Tensor:
    """`tvl1_flow` in plain torch; `arguments` are the options in the order of the schema."""
    tau, weight, theta, scales, warps, epsilon, inner, outer, scale_step, median = arguments
    options = TVL1Options(
        *(tau, weight, theta, int(scales), int(warps), epsilon),
        *(int(inner), int(outer), scale_step, int(median)),
    )
    if len(first) == 0:
        return first.new_empty((*first.shape, 2), dtype=torch.float32)
    firsts, seconds = _pyramid(first.float(), options), _pyramid(second.float(), options)
    flow = torch.zeros(len(first), 2, *firsts[-1].shape[1:], device=first.device)
    for image, other in zip(reversed(firsts), reversed(seconds), strict=True):
        if flow.shape[2:] != image.shape[1:]:
            scale = [old / new for old, new in zip(flow.shape[2:], image.shape[1:], strict=True)]
            flow = _resize(flow, tuple(image.shape[1:]), scale) * (1 / options.scale_step)
        flow = _level(image, other, flow, options)
    return flow.permute(0, 2, 3, 1).contiguous()


def _pyramid(image: Tensor, options: TVL1Options) -> list[Tensor]:
    """An image (N, H, W) in all sizes, finest first."""
    levels = [image]
    while len(levels) < options.scales:
        size = tuple(round(length * options.scale_step) for length in levels[-1].shape[1:])
        if min(size) < SMALLEST:
            break
        levels.append(_resize(levels[-1], size, [1 / options.scale_step] * 2))
    return levels


def _resize(image: Tensor, size: tuple[int, ...], scale: list[float]) -> Tensor:
    """Bilinear, of the last two dimensions; `scale` in pixels of `image` per pixel of the result."""
    for dim, length, step in ((-1, size[1], scale[1]), (-2, size[0], scale[0])):
        last = image.shape[dim] - 1
        place = ((torch.arange(length, dtype=torch.float64) + 0.5) * step - 0.5).float().clamp(0, last)
        place = place.to(image.device)
        low = place.floor()
        share = place - low
        share = share[:, None] if dim == -2 else share
        index = low.long()
        image = image.index_select(dim, index) * (1 - share) + (
            image.index_select(dim, (index + 1).clamp(max=last)) * share
        )
    return image


def _level(image: Tensor, other: Tensor, flow: Tensor, options: TVL1Options) -> Tensor:
    """Flow (N, 2, H, W) of one level, from that of the coarser one; images (N, H, W)."""
    enough = options.epsilon**2 * image[0].numel()
    right = torch.cat([other[..., 1:], other[..., -1:]], -1)
    left = torch.cat([other[..., :1], other[..., :-1]], -1)
    below = torch.cat([other[:, 1:], other[:, -1:]], 1)
    above = torch.cat([other[:, :1], other[:, :-1]], 1)
    channels = torch.stack([other, 0.5 * (right - left), 0.5 * (below - above)], 1)
    dual = torch.zeros(len(image), 2, 2, *image.shape[1:], device=image.device)  # of (u, v), in (x, y)
    for _ in range(options.warps):
        warped = _warp(channels, flow)
        gradient = warped[:, 1:]
        residual = warped[:, 0] - gradient[:, 0] * flow[:, 0] - gradient[:, 1] * flow[:, 1] - image
        inverse = 1 / gradient.square().sum(1).clamp(min=1e-30)
        active = torch.ones(len(image), dtype=torch.bool, device=image.device)
        for _ in range(options.outer):
            if not active.any():
                break
            if options.median > 1:
                flow = torch.where(active[:, None, None, None], _median(flow), flow)
            for _ in range(options.inner):
                if not active.any():
                    break
                new_flow, new_dual = _iterate(residual, gradient, inverse, flow, dual, options)
                change = (new_flow - flow).square().double().sum((1, 2, 3))
                flow = torch.where(active[:, None, None, None], new_flow, flow)
                dual = torch.where(active[:, None, None, None, None], new_dual, dual)
                active = active & (change > enough)
    return flow


def _iterate(
    residual: Tensor, gradient: Tensor, inverse: Tensor, flow: Tensor, dual: Tensor, options: TVL1Options
) -> tuple[Tensor, Tensor]:
    """One thresholding step (equation 15 of the paper) and one of the dual variables (13)."""
    # In float32, as the kernels compute them.
    tau, weight, theta = np.array([options.tau, options.weight, options.theta], np.float32)
    limit, rate = float(weight * theta), float(tau / theta)
    rho = residual + (gradient[:, 0] * flow[:, 0] + gradient[:, 1] * flow[:, 1])
    step = (-rho * inverse).clamp(-limit, limit)
    x, y = dual[:, :, 0], dual[:, :, 1]
    divergence = torch.diff(x, dim=-1, prepend=torch.zeros_like(x[..., :1])) + torch.diff(
        y, dim=-2, prepend=torch.zeros_like(y[..., :1, :])
    )
    flow = (flow + step[:, None] * gradient) + float(theta) * divergence
    forward = torch.stack(
        [
            torch.diff(flow, dim=-1, append=flow[..., -1:]),
            torch.diff(flow, dim=-2, append=flow[..., -1:, :]),
        ],
        2,
    )
    # In float64, which leaves the nearest float32: in float32 torch has MKL compute square roots, whose last
    # digit depends on the processor.
    length = forward.square().sum(2, keepdim=True).double().sqrt().float()
    shrink = 1 / (1 + rate * length)
    return flow, (dual + rate * forward) * shrink


def _warp(channels: Tensor, flow: Tensor) -> Tensor:
    """Channels (N, C, H, W) at every pixel plus its flow, by cubic convolution; zero outside."""
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    left, across = _cubic(x, width)
    top, down = _cubic(y, height)
    batch = torch.arange(len(flow), device=flow.device)[:, None, None]
    padded = torch.nn.functional.pad(channels, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    columns = [
        sum(down[row][..., None] * padded[batch, top + row, left + column] for row in range(4))
        for column in range(4)
    ]
    warped = sum(across[column][..., None] * columns[column] for column in range(4))
    assert isinstance(warped, Tensor)
    return warped.permute(0, 3, 1, 2)


def _cubic(place: Tensor, length: int) -> tuple[Tensor, list[Tensor]]:
    """First of four pixels to read, in an image with 4 more around, and the weights (a = -0.75) of all."""
    place = place.clamp(-3, length + 1)
    whole = place.floor()
    x = place - whole
    y = 1 - x
    first, second, last = -0.75 * x * y * y, (1.25 * x - 2.25) * x * x + 1, -0.75 * x * x * y
    return whole.long() + 3, [first, second, 1 - first - second - last, last]


def _median(flow: Tensor) -> Tensor:
    """Median of 5x5 pixels; the image goes on as its border is."""
    padded = torch.nn.functional.pad(flow, (2, 2, 2, 2), mode="replicate")
    height, width = flow.shape[2:]
    shifted = [padded[..., y : y + height, x : x + width] for y in range(5) for x in range(5)]
    return torch.stack(shifted).median(0).values


def _fake(first: Tensor, second: Tensor, *arguments: float | int) -> Tensor:
    return first.new_empty((*first.shape, 2), dtype=torch.float32)


register(SCHEMA, reference_tvl1_flow, _fake)
