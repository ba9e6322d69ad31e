"""The plain formulation of training MUSES, which the engine is compared with.

One video at a time; the four branches of a layer as gathers and matrix products, over the whole video;
proposals pooled one by one and bin by bin; hard negatives found by a loop over scores; every loss waited for.
It uses the parameters of an `avfusion` detector, so that both can start from the same weights.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from avfusion.detectors.muses import KERNEL_SIZES, UNITS, AggregationLayer, Example, Muses
from avfusion.detectors.sampling import BACKGROUND, FOREGROUND, INCOMPLETE, SPATIAL_SCALE
from avfusion.ops.msta import branch_taps


def losses(detector: Muses, example: Example) -> dict[str, Tensor]:
    """The losses of one video with its first sample of proposals."""
    first = int(example.bank.begins[example.video])
    rows = np.arange(first, first + int(example.bank.lengths[example.video]))
    features = example.bank.gather(rows).T.to(detector.roi_head.activity_fc.weight.dtype).contiguous()
    for layer in detector.backbone.layers:
        features = aggregate(layer, features) if isinstance(layer, AggregationLayer) else layer(features)
    rois = example.samples.rois[0]
    pooled = torch.stack(
        [pool(features, int(roi[2]), int(roi[3]), 2 * detector.options.roi_size) for roi in rois]
    )
    scores = detector.roi_head(pooled)
    kinds, labels, targets = (
        torch.from_numpy(column[0]).to(features.device)
        for column in (example.samples.kinds, example.samples.labels, example.samples.targets)
    )
    judged = kinds != INCOMPLETE
    wanted = torch.where(kinds == BACKGROUND, 0, labels)
    activity = functional.cross_entropy(scores.activity[judged], wanted[judged])
    completeness = hard_hinge(scores.completeness, kinds, labels, detector)
    matched = kinds == FOREGROUND
    own = scores.regression[matched][:, labels[matched] - 1]  # all pairs, of which the diagonal counts
    own = torch.stack([own[i, i] for i in range(len(own))])
    regression = 2 * functional.smooth_l1_loss(own, targets[matched])
    total = activity + 0.5 * completeness + 0.5 * regression
    return {"activity": activity, "completeness": completeness, "regression": regression, "total": total}


def aggregate(layer: AggregationLayer, features: Tensor) -> Tensor:
    """Sum of the branches of a layer: (C, T) to (O, T)."""
    length = features.shape[1]
    total = features.new_zeros(1)
    for branch, size, unit in zip(layer.branches, KERNEL_SIZES, UNITS, strict=True):
        taps = branch_taps(size, unit)
        reach = max(taps)
        padded = functional.pad(features, (reach, reach))
        columns = torch.stack([padded[:, reach + tap : reach + tap + length] for tap in taps], dim=1)
        weight = branch.get_parameter("weight").flatten(1)
        total = total + weight @ columns.flatten(0, 1) + branch.get_parameter("bias")[:, None]
    return total


def pool(features: Tensor, start: int, end: int, bins: int) -> Tensor:
    """Largest values of one proposal in its bins: (C, T) to (C, S)."""
    low, high = start * SPATIAL_SCALE, (max(end, start + 1) + 1) * SPATIAL_SCALE
    step = (high - low) / bins
    found = []
    for k in range(bins):
        first = min(max(math.floor(low + k * step), 0), features.shape[1])
        last = min(max(math.ceil(low + (k + 1) * step), 0), features.shape[1])
        found.append(features[:, first:last].amax(1) if last > first else features.new_zeros(len(features)))
    return torch.stack(found, dim=1)


def hard_hinge(scores: Tensor, kinds: Tensor, labels: Tensor, detector: Muses) -> Tensor:
    """The completeness loss of one video."""
    positives, negatives, _ = detector.options.sampling.counts
    right, wrong = [], []
    for i in range(positives + negatives):
        score = scores[i, int(labels[i]) - 1]
        if i < positives:
            right.append(functional.relu(1 - score))
        elif int(kinds[i]) == INCOMPLETE or not detector.options.mend_missing:
            wrong.append(functional.relu(1 + score))
    wrong = sorted(wrong, key=lambda loss: -loss.item())
    hard = wrong[: max(int(negatives * detector.options.hard_ratio), 1)]
    divisor = len(right) + max(int(len(wrong) * detector.options.hard_ratio), 1)
    return torch.stack([*right, *hard]).sum() / divisor
