"""Losses of G-TAD: of the two maps of candidates, and of the two rows of boundaries.

All are computed for a whole batch at once and never wait for the device. Shapes: B windows of T snippets, D
durations.
"""

from typing import NamedTuple

import torch
from torch import Tensor

HIGH, LOW = 0.7, 0.3  # tIoU above which a candidate is good, and up to which it is poor
POSITIVE = 0.9  # tIoU above which a candidate counts as an action
BOUNDARY = 0.5  # share of a snippet's cell above which it counts as a boundary
MARGIN = 10  # added to the numbers of positive and of other candidates
EPSILON = 1e-6  # inside of every logarithm


class SubgraphLoss(NamedTuple):
    """The two parts of the localisation loss; published is their sum with 10 times the classification."""

    regression: Tensor
    classification: Tensor


def subgraph_loss(maps: Tensor, iou: Tensor, mask: Tensor, uniform: Tensor) -> SubgraphLoss:
    """Losses of the maps of candidates.

    Args:
        maps: (B, 2, D, T) in [0, 1]: channel 0 estimates the tIoU, channel 1 tells actions from the rest.
            (It is the other way round in BMN, on whose losses these build.)
        iou: (B, D, T), targets.
        mask: (D, T), 1 where a candidate counts.
        uniform: (2, B, D, T) drawn from [0, 1): which candidates of middle and of low tIoU count in the
            regression.

    Source: ``subgraph_loss_func`` of the G-TAD code (Xu et al., CVPR 2020, section 3.5).
    """
    target = iou * mask
    regression = _sampled_regression(maps[:, 0].float(), target, mask, uniform)
    positive = target > POSITIVE
    counted = (mask > 0).expand_as(positive)
    return SubgraphLoss(regression, balanced_cross_entropy(maps[:, 1].float(), positive, counted, MARGIN))


def node_loss(start: Tensor, end: Tensor, start_target: Tensor, end_target: Tensor) -> Tensor:
    """Loss of the boundaries: cross-entropy of starts plus that of ends, each balanced over the batch.

    Args:
        start, end: (B, T) in [0, 1], predicted.
        start_target, end_target: (B, T) in [0, 1].
    """

    def balanced(predicted: Tensor, target: Tensor) -> Tensor:
        counted = torch.ones_like(target, dtype=torch.bool)
        return balanced_cross_entropy(predicted.float(), target > BOUNDARY, counted)

    return balanced(start, start_target) + balanced(end, end_target)


def balanced_cross_entropy(
    predicted: Tensor, positive: Tensor, counted: Tensor, margin: float = 0.0
) -> Tensor:
    """Half the mean cross-entropy of the positive entries and half that of the others.

    Args:
        predicted: in [0, 1].
        positive: bool, of the same shape.
        counted: bool, of the same shape; holds all that is positive.
        margin: is added to both counts by which is divided, so that a single positive entry does not weigh
            as much as all others. Counts below 1 are 1 (the published code divides by zero there).
    """
    others = counted & ~positive
    hit = (torch.log(predicted + EPSILON) * positive).sum() / (positive.sum() + margin).clamp(min=1)
    miss = (torch.log(1 - predicted + EPSILON) * others).sum() / (others.sum() + margin).clamp(min=1)
    return -(hit + miss) / 2


def _sampled_regression(predicted: Tensor, target: Tensor, mask: Tensor, uniform: Tensor) -> Tensor:
    """Half the mean squared error over all good candidates and about as many middling and poor ones.

    Where there are fewer middling (poor) candidates than good ones, *every* place counts once more, good and
    masked ones included: as published, where a product of 0 exceeds a negative threshold.
    """
    good = target > HIGH
    middling = (target <= HIGH) & (target > LOW)
    poor = (target <= LOW) & (target > 0) & (mask > 0)
    count = good.sum().to(target.dtype)
    weights = good.to(target.dtype)
    for kind, drawn in zip((middling, poor), uniform, strict=True):
        # 0 / 0 gives NaN, which no number exceeds: nothing is drawn
        weights = weights + (drawn * kind > 1 - count / kind.sum()).to(target.dtype)
    error = (predicted * weights - target * weights).square().sum()
    return 0.5 * error / weights.sum().clamp(min=1)
