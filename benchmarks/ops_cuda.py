"""Prints what the operators cost on the GPU, beside torchvision's operators on 1 x T maps, in one process.

    python benchmarks/ops_cuda.py [--only OPERATOR...]

torchvision's `deform_conv2d`, `roi_pool` and `roi_align` stand for the published kernels, which build no
more. Convolutions and products are measured in full float32 and with TF32, for both sides alike. Times are of
the GPU alone, as it replays a CUDA graph of calls (msta_conv1d: sums of its kernels, since deform_conv2d
cannot be captured); the ratio "as called" is of calls from Python, one after the other.
"""

import argparse
import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import problems
import torch
from harness import (
    kernel_seconds,
    median_call_seconds,
    median_gpu_seconds,
    megabytes,
    peak_gpu_bytes,
    print_table,
    ratio,
    seconds,
)
from torch import Tensor
from torch.nn import functional

from avfusion.ops import (
    align1d,
    extension_status,
    merge_branches,
    nms1d,
    project_align1d,
    roi_max_pool1d,
    soft_nms1d,
)
from avfusion.ops.msta import branch_taps
from avfusion.ops.tiled_conv import tiled_conv1d

Rows = list[list[str]]
HEAD = ["operator", "compared with", "that", "avfusion", "ratio", "as called", "remark"]
BUDGET = 0.4  # seconds for a measurement


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Products and convolutions in TF32 or in full float32."""
    saved = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = saved


def compared(
    case: str,
    other: str,
    slow: Callable[[], Any],
    fast: Callable[[], Any],
    remark: str = "",
    captured: bool = True,
) -> list[str]:
    """A row: what the GPU takes (replays of a CUDA graph), and the ratio of calls from Python."""
    gpu = functools.partial(median_gpu_seconds, budget=BUDGET) if captured else kernel_seconds
    slow_s, fast_s = (gpu(run) for run in (slow, fast))
    as_called = ratio(*(median_call_seconds(run, BUDGET) for run in (slow, fast)))
    return [case, other, seconds(slow_s), seconds(fast_s), ratio(slow_s, fast_s), as_called, remark]


def deformable(vision: Any) -> problems.Branch:
    """A branch as published: a 1 x K deformable convolution whose offsets never change."""

    @functools.cache
    def offsets(batch: int, frames: int, size: tuple[int, int], unit: int) -> Tensor:
        taps = branch_taps(size, unit)
        shift = torch.tensor([float(tap - (k - len(taps) // 2)) for k, tap in enumerate(taps)])
        offset = torch.zeros(batch, 2 * len(taps), 1, frames)
        offset[:, 1::2] = shift[:, None, None]
        return offset.cuda()

    def branch(features: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int], unit: int) -> Tensor:
        offset = offsets(features.shape[0], features.shape[2], size, unit)
        half = offset.shape[1] // 4
        output: Tensor = vision.deform_conv2d(features[:, :, None], offset, weight, bias, padding=(0, half))
        return output[:, :, 0]

    return branch


def merged_by(convolve: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, problems.Layers], Tensor]:
    """Both layers with their ReLU, by one convolution with the merged kernel."""

    def forward(features: Tensor, layers: problems.Layers) -> Tensor:
        for weights, biases in zip(layers.weights, layers.biases, strict=True):
            kernel = merge_branches(weights, problems.KERNEL_SIZES, problems.UNITS)
            features = (convolve(features, kernel) + sum(biases[1:], biases[0])[:, None]).relu()
        return features

    return forward


def by_cudnn(features: Tensor, kernel: Tensor) -> Tensor:
    """The convolution that `msta_conv1d` takes for short features, and in TF32."""
    return functional.conv1d(features, kernel, padding=kernel.shape[2] // 2)


def msta(vision: Any, batch: int, frames: int) -> Rows:
    """Both layers of MUSES, forward and backward, and other ways to compute them."""
    layers = problems.muses_layers("cuda")
    features = torch.randn(batch, problems.WIDTHS[0], frames, device="cuda", requires_grad=True)
    grad = torch.randn(batch, problems.WIDTHS[-1], frames, device="cuda")
    leaves = [features, *layers.parameters()]
    published = deformable(vision)
    others: dict[str, Callable[[], Tensor]] = {
        "deform_conv2d, four branches": lambda: problems.branch_by_branch(features, layers, published),
        "gather + matmul, four branches": lambda: problems.branch_by_branch(
            features, layers, problems.gather_and_multiply
        ),
        "merged, by cuDNN": lambda: merged_by(by_cudnn)(features, layers),
        "merged, over frequencies": lambda: merged_by(tiled_conv1d)(features, layers),
    }

    def ours() -> None:
        problems.backward(problems.merged(features, layers), leaves, grad)

    def differentiated(forward: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: problems.backward(forward(), leaves, grad)

    case = f"msta_conv1d, forward + backward, batch {batch}, T {frames}"
    rows: Rows = []
    for allowed in (False, True):
        with tf32(allowed):
            for other, forward in others.items():
                mode = "TF32" if allowed else "float32"
                rows.append(compared(case, other, differentiated(forward), ours, mode, captured=False))
    return rows


def bandwidth() -> float:
    """Bytes per second that this GPU copies, reading and writing counted: the bound that can be had."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return (
        2 * source.numel() * source.element_size() / median_call_seconds(lambda: target.copy_(source), BUDGET)
    )


def roi_pool(vision: Any, videos: int) -> Rows:
    """1,000 rois per video, 512 channels, 8 bins; bytes of the forward pass are features, rois and output."""
    channels, frames, bins, count = 512, 1000, 8, 1000 * videos
    generator = torch.Generator().manual_seed(0)
    video = torch.arange(videos).repeat_interleave(1000)
    start = torch.randint(0, 8 * frames - 400, (count,), generator=generator)
    length = torch.randint(40, 400, (count,), generator=generator)
    rois = torch.stack([video, start, start + length], 1).float().cuda()
    none = torch.zeros_like(rois[:, 0])
    boxes = torch.stack([rois[:, 0], rois[:, 1], none, rois[:, 2], none], 1)
    features = torch.randn(videos, channels, frames, device="cuda", requires_grad=True)
    fixed = features.detach()
    grad = torch.randn(count, channels, bins, device="cuda")

    def theirs(x: Tensor) -> Tensor:
        output: Tensor = vision.roi_pool(x[:, :, None], boxes, (1, bins), 0.125)
        return output[:, :, 0]

    def ours(x: Tensor) -> Tensor:
        return roi_max_pool1d(x, rois, bins, 0.125, check_rois=False)

    case = f"roi_max_pool1d, {videos} video{'s' if videos > 1 else ''}, forward"
    rows = [
        compared(case, "roi_pool", lambda: theirs(fixed), lambda: ours(fixed)),
        compared(
            f"{case} + backward",
            "roi_pool",
            lambda: problems.backward(theirs(features), [features], grad),
            lambda: problems.backward(ours(features), [features], grad),
        ),
    ]
    moved = 4 * (videos * channels * frames + rois.numel()) + 4 * count * channels * bins
    return [*rows, *bounds(moved, median_gpu_seconds(lambda: ours(fixed), BUDGET))]


def bounds(moved: int, taken: float) -> Rows:
    """Shares of the rate at which much memory is copied, and of the time to copy so many bytes."""
    rate = bandwidth()
    source = torch.empty(moved // 8, device="cuda")
    target = torch.empty_like(source)
    copied = median_gpu_seconds(lambda: target.copy_(source), BUDGET)
    remark = f"{moved / 1e6:.1f} MB at least, {moved / taken / 1e9:.0f} of {rate / 1e9:.0f} GB/s copied"
    return [
        [case, "device copy", seconds(bound), seconds(taken), f"{bound / taken:.0%} of the bound", "", remark]
        for case, bound in (("... bound by bandwidth", moved / rate), ("... a copy of as many bytes", copied))
    ]


def align(vision: Any, samples: int) -> Rows:
    """G-TAD's grid at T 100, D 100, batch 4, 256 channels, 32 bins."""
    grid = problems.gtad_anchors(100, 100, "cuda")
    batch, channels, bins = 4, 256, 32
    table = in_every_video(grid, batch)
    features = torch.randn(batch, channels, 100, device="cuda", requires_grad=True)
    grad = torch.randn(len(table), channels, bins, device="cuda")

    def ours() -> Tensor:
        return align1d(features, table, bins, samples, check_rois=False)

    def theirs() -> Tensor:
        return align_by_torchvision(vision, features, table, bins, samples)

    def differentiated(forward: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: problems.backward(forward(), [features], grad)

    remark = f"sampling_ratio {samples}"
    return [
        compared("align1d, forward", "roi_align", theirs, ours, remark),
        compared(
            "align1d, forward + backward", "roi_align", differentiated(theirs), differentiated(ours), remark
        ),
    ]


def in_every_video(rois: Tensor, batch: int) -> Tensor:
    """The same rois for every video, (batch * R, 3)."""
    return torch.cat([torch.cat([rois.new_full((len(rois), 1), b), rois], 1) for b in range(batch)])


def align_by_torchvision(vision: Any, features: Tensor, table: Tensor, bins: int, samples: int) -> Tensor:
    """`roi_align` on 1 x T maps: one bin and one row high."""
    zero, one = torch.zeros_like(table[:, 0]), torch.ones_like(table[:, 0])
    boxes = torch.stack([table[:, 0], table[:, 1], zero, table[:, 2], one], 1)
    output: Tensor = vision.roi_align(features[:, :, None], boxes, (1, bins), 1.0, samples or -1)
    return output[:, :, 0]


def project(vision: Any, frames: int, durations: int, batch: int) -> Rows:
    """A published size of G-TAD, forward and backward, with memory."""
    channels, outputs, bins = 512, 512, 16
    rois = problems.gtad_anchors(frames, durations, "cuda")
    table = in_every_video(rois, batch)
    features = torch.randn(batch, channels, frames, device="cuda", requires_grad=True)
    weight = (torch.randn(outputs, channels, bins, device="cuda") * 0.01).requires_grad_()
    bias = torch.zeros(outputs, device="cuda", requires_grad=True)
    grad = torch.randn(batch, len(rois), outputs, device="cuda").transpose(1, 2)
    leaves = [features, weight, bias]

    def fused() -> None:
        problems.backward(project_align1d(features, rois, weight, bias, check_rois=False), leaves, grad)

    def separate() -> None:
        aligned = align_by_torchvision(vision, features, table, bins, 0)
        maps = aligned.reshape(batch, durations, frames, channels * bins).permute(0, 3, 1, 2)
        output = functional.conv2d(maps, weight.reshape(outputs, -1, 1, 1), bias)
        problems.backward(output.flatten(2), leaves, grad)

    case = f"project_align1d, forward + backward, T {frames}, D {durations}, batch {batch}"
    rows: Rows = []
    for allowed in (False, True):
        with tf32(allowed):
            mode = "TF32" if allowed else "float32"
            rows.append(compared(case, "roi_align, 1x1 convolution", separate, fused, mode))
    peaks = peak_gpu_bytes(separate), peak_gpu_bytes(fused)
    rows.append(["... memory beyond inputs", "", *(megabytes(p) for p in peaks), ratio(*peaks), "", ""])
    torch.cuda.empty_cache()
    return rows


def hard(segments: Tensor, scores: Tensor, groups: Tensor) -> None:
    """Suppression at tIoU 0.4."""
    nms1d(segments, scores, 0.4, groups)


def soft(segments: Tensor, scores: Tensor, groups: Tensor) -> None:
    """Gaussian soft suppression."""
    soft_nms1d(segments, scores, groups=groups)


def called(case: str, other: str, slow: Callable[[], Any], fast: Callable[[], Any]) -> list[str]:
    """A row for what waits for the device, and so cannot be captured: calls from Python."""
    slow_s, fast_s = (median_call_seconds(run, BUDGET) for run in (slow, fast))
    return [case, other, seconds(slow_s), seconds(fast_s), ratio(slow_s, fast_s), "the same", ""]


def suppression() -> Rows:
    """As many segments as the released THUMOS14 detections have, and 20 times as many; GPU and CPU."""
    rows: Rows = []
    generator = torch.Generator().manual_seed(3)
    for count in (87_285, 20 * 87_285):
        start = torch.rand(count, generator=generator) * 200
        segments = torch.stack([start, start + 20 * torch.rand(count, generator=generator)], 1)
        scores = torch.rand(count, generator=generator)
        groups = torch.randint(213 * 20, (count,), generator=generator)
        here = segments, scores, groups
        there = segments.cuda(), scores.cuda(), groups.cuda()
        rows.append(
            called(
                f"nms1d, {count:,} segments, 4,260 groups",
                "the CPU kernel",
                functools.partial(hard, *here),
                functools.partial(hard, *there),
            )
        )
        rows.append(
            called(
                f"soft_nms1d, {count:,} segments, 4,260 groups",
                "the CPU kernel",
                functools.partial(soft, *here),
                functools.partial(soft, *there),
            )
        )
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    tables: dict[str, Callable[[Any], Rows]] = {
        "msta_conv1d": lambda vision: [*msta(vision, 1, 1000), *msta(vision, 16, 256)],
        "roi_max_pool1d": lambda vision: [*roi_pool(vision, 1), *roi_pool(vision, 8)],
        "align1d": lambda vision: [*align(vision, 0), *align(vision, 2)],
        "project_align1d": lambda vision: [*project(vision, 256, 64, 4), *project(vision, 100, 100, 16)],
        "suppression": lambda vision: suppression(),
    }
    parser.add_argument("--only", nargs="+", choices=tables, default=list(tables))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("left out: there is no CUDA device")
        return
    if not extension_status().cuda:
        raise SystemExit(f"ops_cuda.py needs the operators built for CUDA: {extension_status()}")
    vision = importlib.import_module("torchvision.ops")
    for name in args.only:
        print_table(f"{name} on CUDA (medians)", HEAD, tables[name](vision))


if __name__ == "__main__":
    main()
