"""Losses of the two-stage detectors (SSN, P-GCN, MUSES).

The activity loss is plain cross-entropy over foreground and background proposals.
"""

import torch
from torch import Tensor
from torch.nn import functional


def completeness_loss(
    scores: Tensor, labels: Tensor, counted: Tensor, positives: int, hard_ratio: float
) -> Tensor:
    """Hinge loss that separates complete from incomplete proposals of a class, with hard negatives only.

    In every group the first `positives` proposals are complete (hinge ``max(0, 1 - s)``), the others are not
    (``max(0, 1 + s)``), s being the score of the proposal's own class. Of the N incomplete ones in a group
    the ``max(floor(N * hard_ratio), 1)`` with the largest loss count. The sum is divided by the number of
    complete ones in the batch plus ``max(floor(N_all * hard_ratio), 1)``, where N_all are the incomplete ones
    of the *batch*: as published, which is not quite the number of summands.

    Args:
        scores: (G, P, K), completeness scores of P proposals in each of G groups.
        labels: int64 (G, P), classes from 1; 0 only where `counted` is false.
        counted: bool (G, P). A proposal that stands at the place of an incomplete one and is none (a video
            had none, so a foreground one took its place) is to be left out; the published code, which goes
            by the place, pushes its score down as if it were incomplete.
        positives: complete proposals at the head of every group.
        hard_ratio: share of hard negatives; published 0.17.

    Source: ``CompletenessLoss`` and ``OHEMHingeLoss`` of the MUSES code, after SSN (Zhao et al., ICCV 2017).
    """
    own = scores.gather(2, (labels - 1).clamp(min=0)[..., None]).squeeze(2)
    complete = functional.relu(1 - own[:, :positives]) * counted[:, :positives]
    incomplete = functional.relu(1 + own[:, positives:]) * counted[:, positives:]
    hard = max(int(incomplete.shape[1] * hard_ratio), 1)
    total = complete.sum() + incomplete.topk(hard, dim=1).values.sum()
    in_batch = counted[:, positives:].sum().double() * hard_ratio
    return total / (counted[:, :positives].sum() + in_batch.floor().clamp(min=1)).to(total.dtype)


def regression_loss(shifts: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Smooth L1 between target and predicted shift of the proposal's own class, mean times 2.

    Args:
        shifts: (N, K, 2), normalised shift of centre and of log length per class.
        labels: int64 (N,), classes from 1.
        targets: (N, 2), normalised.

    Returns:
        The loss; 0 if there is no proposal.

    Source: ``ClassWiseRegressionLoss`` of the MUSES code, which gathers (N, N) pairs and takes the diagonal.
    """
    if len(labels) == 0:
        return shifts.sum()
    own = shifts[torch.arange(len(labels), device=labels.device), labels - 1]
    return 2 * functional.smooth_l1_loss(own, targets)
