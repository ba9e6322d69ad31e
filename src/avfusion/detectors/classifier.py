"""A small classifier of segments, so that proposals without classes become detections.

G-TAD proposes segments and leaves their classes to video-level scores of other networks (UntrimmedNet,
CUHK). Who has none measures this one on the training videos: softmax regression over the K classes and
background, on the mean features of a segment and of half its length before and after it. It is no part of
the network and its loss: the problem is convex, solved once with all segments, and has one solution whatever
the seed; so it neither changes the published training nor waits for it.

Segments to learn from are the instances, each also shifted and stretched as a proposal might be, and windows
as long as instances are, all named by the instance with the largest tIoU.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avfusion.data.features import VideoFeatures
from avfusion.data.proposals import Segments, sliding_windows
from avfusion.detectors.base import Video
from avfusion.errors import InputError
from avfusion.evaluation.segments import segment_iou

Floats = NDArray[np.float64]
SHIFTS = (-0.2, 0.0, 0.2)  # of the centre of an instance, in its lengths
STRETCHES = (0.75, 1.0, 1.33)  # of its length
MARGIN = 0.5  # length of the context on either side, in lengths of the segment
MATCH, MISS = 0.5, 0.3  # tIoU from which a segment is of the instance's class; below which it is background
QUANTILES = (0.1, 0.5, 0.9)  # of the lengths of instances, as the lengths of windows
PENALTY = 1e-3  # on the squared weights, in units of the mean loss
STEPS = 200  # of the solver, at most


def segment_features(features: VideoFeatures, segments: Segments) -> NDArray[np.float32]:
    """Mean features of segments (N, 2) in seconds and of their context: [inside, before, after], (N, 3 C).

    Snippets count with the share of their cell that lies in the segment. What lies beyond the features is
    replaced by the nearest snippet.
    """
    start, end = np.asarray(segments, dtype=np.float64).reshape(-1, 2).T
    margin = MARGIN * (end - start)
    bounds = np.array([(start, end), (start - margin, start), (end, end + margin)])
    cells = (bounds - features.axis.origin) / features.axis.stride
    return np.concatenate([_means(features.values, low, high) for low, high in cells], axis=1)


def fit_classifier(videos: Sequence[Video], classes: int) -> tuple[Tensor, Tensor]:
    """Weights float32 (K + 1, 3 C) and biases (K + 1,) of the classifier; row 0 is background.

    All classes that occur weigh the same together, background as much as all of them.

    Raises:
        InputError: no video has an instance.
    """
    lengths = np.concatenate([video.instances[:, 1] - video.instances[:, 0] for video in videos])
    if not lengths.size:
        raise InputError("annotations", "no video with features has an instance to learn classes from")
    windows = np.quantile(lengths, QUANTILES)
    parts = [_examples(video, windows) for video in videos]
    inputs = torch.from_numpy(np.concatenate([inputs for inputs, _ in parts]))
    labels = torch.from_numpy(np.concatenate([labels for _, labels in parts]))
    mean, deviation = inputs.mean(dim=0), inputs.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    weight, bias = _solve((inputs - mean) / deviation, labels, classes)
    weight = weight / deviation
    return weight, bias - weight @ mean


def _examples(video: Video, lengths: Floats) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features and labels (0: background) of the segments of a video that are clearly one or the other."""
    centre = video.instances.mean(axis=1)[:, None, None]
    length = (video.instances[:, 1] - video.instances[:, 0])[:, None, None]
    centre = centre + length * np.array(SHIFTS)[:, None]
    half = length * np.array(STRETCHES) / 2
    moved = np.stack([centre - half, centre + half], axis=-1).reshape(-1, 2)
    covered = len(video.features.values) * video.features.axis.stride
    windows = sliding_windows(covered, lengths.tolist(), overlap=0.5) + video.features.axis.origin
    segments = np.concatenate([moved, windows])
    iou = segment_iou(segments, video.instances)
    best = iou.max(axis=1, initial=0.0)
    labels = np.zeros(len(segments), dtype=np.int64)
    if len(video.instances):
        labels = np.where(best >= MATCH, video.classes[iou.argmax(axis=1)] + 1, 0)
    clear = (best >= MATCH) | (best < MISS)
    return segment_features(video.features, segments[clear]), labels[clear]


def _means(values: NDArray[np.float32], low: Floats, high: Floats) -> NDArray[np.float32]:
    """Mean over [low, high] in cells, (N, C); of the nearest cell where that lies beyond all of them."""
    count = len(values)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    low, high = np.clip(low, 0, count), np.clip(high, 0, count)
    short = high - low < 1e-6
    cell = np.clip(np.floor(low), 0, count - 1)
    low, high = np.where(short, cell, low), np.where(short, cell + 1, high)

    def integral(at: Floats) -> Floats:
        whole = np.minimum(at.astype(np.int64), count - 1)
        part = sums[whole] + (at - whole)[:, None] * (sums[whole + 1] - sums[whole])
        return np.asarray(part, dtype=np.float64)

    return ((integral(high) - integral(low)) / (high - low)[:, None]).astype(np.float32)


def _solve(inputs: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Softmax regression with a penalty on the weights, by L-BFGS over all examples."""
    counts = labels.bincount(minlength=classes + 1).float()
    present = (counts[1:] > 0).sum()
    share = torch.cat([torch.tensor([0.5]), (0.5 / present).expand(classes)]) / counts.clamp(min=1)
    importance = share[labels] / share[labels].sum()
    weight = torch.zeros(classes + 1, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(classes + 1, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        each = functional.cross_entropy(inputs @ weight.T + bias, labels, reduction="none")
        value = (each * importance).sum() + PENALTY * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach(), bias.detach()
