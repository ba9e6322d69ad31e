"""Prints what the operators cost on the CPU, each beside the formulation that it replaces.

    python benchmarks/ops_cpu.py [--detections CSV.GZ]

Without the table of detections (AVFUSION_SHARED/thumos14/tal-hmo-detections.csv.gz) suppression is measured
on random segments of the same number, videos and classes.
"""

import argparse
import csv
import gzip
import os
from pathlib import Path

import numpy as np
import problems
import torch
from harness import (
    median_seconds,
    megabytes,
    peak_cpu_bytes,
    print_growth,
    print_table,
    ratio,
    seconds,
)
from numpy.typing import NDArray
from torch import Tensor

from avfusion.memory import keep_freed_memory
from avfusion.ops import align1d, nms1d, project_align1d, soft_nms1d

VIDEOS, CLASSES, SEGMENTS = 213, 20, 87_285
Rows = list[list[str]]


def msta() -> Rows:
    """Both layers of MUSES, forward and backward, T = 1000."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, problems.WIDTHS[0], 1000, generator=generator).requires_grad_()
    grad = torch.randn(1, problems.WIDTHS[-1], 1000, generator=generator)
    layers = problems.muses_layers("cpu")
    leaves = [features, *layers.parameters()]

    def ours() -> None:
        problems.backward(problems.merged(features, layers), leaves, grad)

    def theirs() -> None:
        branches = problems.branch_by_branch(features, layers, problems.gather_and_multiply)
        problems.backward(branches, leaves, grad)

    ours_s, theirs_s = median_seconds(ours), median_seconds(theirs)
    case = "msta_conv1d, forward + backward, 1024 -> 384 -> 512, T 1000"
    return [
        [case, "four branches, gather + matmul", seconds(theirs_s), seconds(ours_s), ratio(theirs_s, ours_s)]
    ]


class Alignment:
    """G-TAD's alignment and the convolution behind it: T = D = 100, 512 stacked channels to 512, 16 bins."""

    def __init__(self, frames: int = 100, channels: int = 512, outputs: int = 512, bins: int = 16) -> None:
        generator = torch.Generator().manual_seed(2)
        self.rois = problems.gtad_anchors(frames, frames, "cpu")
        self.features = torch.randn(1, channels, frames, generator=generator).requires_grad_()
        self.weight = (torch.randn(outputs, channels, bins, generator=generator) * 0.01).requires_grad_()
        self.bias = torch.zeros(outputs, requires_grad=True)
        self.grad = torch.randn(1, len(self.rois), outputs, generator=generator).transpose(1, 2)
        self.leaves = [self.features, self.weight, self.bias]

    def fused(self) -> None:
        """Project, then align; forward and backward."""
        output = project_align1d(self.features, self.rois, self.weight, self.bias)
        problems.backward(output, self.leaves, self.grad)

    def separate(self) -> None:
        """Align, then project; forward and backward."""
        table = torch.cat([torch.zeros(len(self.rois), 1), self.rois], 1)
        aligned = align1d(self.features, table, self.weight.shape[2]).flatten(1)
        output = torch.nn.functional.linear(aligned, self.weight.flatten(1), self.bias)
        problems.backward(output.t()[None], self.leaves, self.grad)


def project_align() -> Rows:
    problem = Alignment()
    fused, separate = median_seconds(problem.fused), median_seconds(problem.separate, repeat=3)
    peaks = [peak_cpu_bytes(Path(__file__), name) for name in ("separate", "fused")]
    case, other = "project_align1d, forward + backward, T 100, D 100", "align1d, then 1x1 convolution"
    return [
        [case, other, seconds(separate), seconds(fused), ratio(separate, fused)],
        ["... memory beyond inputs", "", megabytes(peaks[0]), megabytes(peaks[1]), ratio(*peaks)],
    ]


def read_detections(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Segments, scores and groups (video and class) of the released table."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {key: i for i, key in enumerate(sorted({(row["video_id"], row["label"]) for row in rows}))}
    segments = [[float(row["start"]), float(row["end"])] for row in rows]
    groups = [names[row["video_id"], row["label"]] for row in rows]
    return (
        torch.tensor(segments, dtype=torch.float64),
        torch.tensor([float(row["score"]) for row in rows], dtype=torch.float64),
        torch.tensor(groups),
    )


def random_detections() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(SEGMENTS, generator=generator, dtype=torch.float64) * 200
    length = torch.rand(SEGMENTS, generator=generator, dtype=torch.float64) * 20
    groups = torch.randint(VIDEOS * CLASSES, (SEGMENTS,), generator=generator)
    scores = torch.rand(SEGMENTS, generator=generator, dtype=torch.float64)
    return torch.stack([start, start + length], 1), scores, groups


def repeated(segments: Tensor, scores: Tensor, groups: Tensor, times: int) -> tuple[Tensor, Tensor, Tensor]:
    """`times` as many segments in the same groups, moved a little so that none is a copy."""
    generator = torch.Generator().manual_seed(4)
    moved = segments.repeat(times, 1) + torch.randn(times * len(segments), 1, generator=generator)
    return (
        moved,
        scores.repeat(times) * torch.rand(times * len(scores), generator=generator),
        groups.repeat(times),
    )


Problem = tuple[NDArray[np.float64], NDArray[np.float64]]


def tiou(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    shared = np.maximum(0, np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0]))
    whole = (one[1] - one[0]) + (others[:, 1] - others[:, 0]) - shared
    return shared / np.where(whole > 0, whole, 1)


def numpy_nms(segments: NDArray[np.float64], scores: NDArray[np.float64], threshold: float) -> int:
    """The usual loop over the segments of one video and class; how many are kept."""
    order, kept = np.argsort(-scores, kind="stable"), 0
    while len(order):
        kept += 1
        order = order[1:][tiou(segments[order[0]], segments[order[1:]]) <= threshold]
    return kept


def numpy_soft_nms(
    segments: NDArray[np.float64], scores: NDArray[np.float64], sigma: float, least: float
) -> int:
    """The usual loop of Gaussian soft suppression; how many are kept."""
    keep = scores >= least
    segments, scores, kept = segments[keep], scores[keep], 0
    while len(scores):
        best = int(scores.argmax())
        kept += 1
        scores = scores * np.exp(-(tiou(segments[best], segments) ** 2) / sigma)
        scores[best] = -1
        keep = scores >= least
        segments, scores = segments[keep], scores[keep]
    return kept


def suppression(detections: tuple[Tensor, Tensor, Tensor], times: int) -> Rows:
    segments, scores, groups = repeated(*detections, times) if times > 1 else detections
    order = torch.argsort(groups, stable=True)
    cuts = groups[order].bincount().cumsum(0)[:-1].tolist()
    pairs: list[Problem] = list(
        zip(np.split(segments[order].numpy(), cuts), np.split(scores[order].numpy(), cuts), strict=True)
    )
    rows = []
    for name, ours, loop in (
        (
            "nms1d, tIoU 0.4",
            lambda: len(nms1d(segments, scores, 0.4, groups)),
            lambda: sum(numpy_nms(a, b, 0.4) for a, b in pairs),
        ),
        (
            "soft_nms1d, Gaussian",
            lambda: len(soft_nms1d(segments, scores, groups=groups).kept),
            lambda: sum(numpy_soft_nms(a, b, 0.5, 0.001) for a, b in pairs),
        ),
    ):
        found, wanted = ours(), loop()
        if abs(found - wanted) > 1e-4 * wanted:  # exp may round differently, and a score fall under the least
            raise RuntimeError(f"{name}: {found} segments kept, the loop keeps {wanted}")
        slow, fast = median_seconds(loop, repeat=3 if times == 1 else 1, warm_up=0), median_seconds(ours)
        case = f"{name}, {len(segments):,} segments, {len(pairs):,} groups, {wanted:,} kept"
        rows.append([case, "NumPy loop per video and class", seconds(slow), seconds(fast), ratio(slow, fast)])
    return rows


def main() -> None:
    """Print the table, or with --peak one figure of it."""
    shared = Path(os.environ.get("AVFUSION_SHARED", ".")) / "thumos14" / "tal-hmo-detections.csv.gz"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detections", type=Path, default=shared, help="table of detections (.csv.gz)")
    parser.add_argument("--peak", choices=["fused", "separate"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        getattr(
            Alignment(10, 32, 32, 4), options.peak
        )()  # threads and what the libraries keep for themselves
        print_growth(getattr(Alignment(), options.peak))
        return
    is_there = options.detections.is_file()
    detections = read_detections(options.detections) if is_there else random_detections()
    keep_freed_memory()  # as training does
    kind = "the released THUMOS14 detections" if is_there else "random segments"
    rows = [*msta(), *project_align(), *suppression(detections, 1), *suppression(detections, 20)]
    title = f"Operators on the CPU (medians; suppression on {kind} and 20 times as many)"
    print_table(title, ["operator", "compared with", "that", "avfusion", "ratio"], rows)


if __name__ == "__main__":
    main()
