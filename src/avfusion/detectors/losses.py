"""What the two-stage detectors (P-GCN, MUSES, after SSN) say of proposals, and their losses.

Proposals come in groups, groups in batches. The published losses divide by counts over a batch; so that
several batches can be computed at once with the losses that each has alone, `members` (n, G) says with ones
and zeros which of the G groups belong to which of n batches. Nothing here waits for the device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from avfusion.detectors.base import TOTAL
from avfusion.detectors.sampling import BACKGROUND, FOREGROUND, INCOMPLETE
from avfusion.options import require


class HeadScores(NamedTuple):
    """For N proposals: activity (N, K + 1), completeness (N, K), regression (N, K, 2; normalised)."""

    activity: Tensor
    completeness: Tensor
    regression: Tensor


@dataclass(frozen=True)
class LossOptions:
    """Options of the losses, which the two-stage detectors share; see the detectors' own `Options`."""

    completeness_weight: float = 0.5
    regression_weight: float = 0.5
    hard_ratio: float = 0.17
    mend_missing: bool = True

    def __post_init__(self) -> None:
        for name in ("completeness_weight", "regression_weight", "hard_ratio"):
            require(getattr(self, name) >= 0, name, f"must not be negative, not {getattr(self, name)}")


def two_stage_losses(
    scores: HeadScores,
    kinds: Tensor,
    labels: Tensor,
    targets: Tensor,
    counts: tuple[int, int, int],
    options: LossOptions,
    members: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of G groups of P proposals: foreground, then incomplete, then background.

    Activity (cross-entropy) goes by kind (foreground and background), completeness by place (all but the
    background's), regression by kind (foreground), as published.

    Args:
        scores: of G * P proposals.
        kinds: int64 (G, P).
        labels: int64 (G, P), classes from 1.
        targets: (G, P, 2), normalised.
        counts: of foreground, incomplete and background proposals in a group; their sum is P.
        options: weights of the losses.
        members: (n, G), for the losses (n,) of n batches; None: all groups are one batch, which has one loss.

    Returns:
        "activity", "completeness", "regression", and their weighted sum as "total".
    """
    if members is None:
        members = scores.activity.new_ones(1, len(kinds))
        losses = two_stage_losses(scores, kinds, labels, targets, counts, options, members)
        return {name: value[0] for name, value in losses.items()}
    wanted = torch.where(kinds == BACKGROUND, 0, labels).flatten()
    surprise = functional.cross_entropy(scores.activity, wanted, reduction="none")
    activity = masked_mean(surprise.unflatten(0, kinds.shape), kinds != INCOMPLETE, members)

    compared = counts[0] + counts[1]
    by_place = scores.completeness.unflatten(0, kinds.shape)[:, :compared]
    counted = torch.ones_like(kinds[:, :compared], dtype=torch.bool)
    if options.mend_missing:
        counted[:, counts[0] :] = kinds[:, counts[0] : compared] == INCOMPLETE
    completeness = completeness_loss(
        by_place, labels[:, :compared], counted, counts[0], options.hard_ratio, members
    )

    errors = regression_errors(scores.regression.unflatten(0, kinds.shape), labels, targets)
    regression = masked_mean(errors, kinds == FOREGROUND, members)
    total = activity + options.completeness_weight * completeness + options.regression_weight * regression
    return {"activity": activity, "completeness": completeness, "regression": regression, TOTAL: total}


def masked_mean(values: Tensor, counted: Tensor, members: Tensor) -> Tensor:
    """Mean over the counted proposals of every batch (n,); 0 where there is none.

    Args:
        values: (G, P).
        counted: bool (G, P).
        members: (n, G).
    """
    sums = torch.where(counted, values, 0).sum(1)
    counts = (members * counted.sum(1)).sum(1)
    return (members * sums).sum(1) / counts.clamp(min=1)


def completeness_loss(
    scores: Tensor,
    labels: Tensor,
    counted: Tensor,
    positives: int,
    hard_ratio: float,
    members: Tensor | None = None,
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
        members: (n, G), for the losses (n,) of n batches; None: all groups are one batch, which has one loss.

    Source: ``CompletenessLoss`` and ``OHEMHingeLoss`` of the MUSES code, after SSN (Zhao et al., ICCV 2017).
    """
    own = scores.gather(2, (labels - 1).clamp(min=0)[..., None]).squeeze(2)
    complete = functional.relu(1 - own[:, :positives]) * counted[:, :positives]
    incomplete = functional.relu(1 + own[:, positives:]) * counted[:, positives:]
    hard = max(int(incomplete.shape[1] * hard_ratio), 1)
    summed = complete.sum(1) + incomplete.topk(hard, dim=1).values.sum(1)
    belongs = summed.new_ones(1, len(scores)) if members is None else members
    in_batch = (belongs.double() * counted[:, positives:].sum(1)).sum(1) * hard_ratio
    right = (belongs * counted[:, :positives].sum(1)).sum(1)
    losses = (belongs * summed).sum(1) / (right + in_batch.floor().clamp(min=1)).to(summed.dtype)
    return losses[0] if members is None else losses


def regression_errors(shifts: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Smooth L1 between target and predicted shift of the proposal's own class, summed over the two: (...).

    Args:
        shifts: (..., K, 2), normalised shift of centre and of log length per class.
        labels: int64 (...), classes from 1; the error of a proposal with 0 means nothing.
        targets: (..., 2), normalised.
    """
    index = (labels - 1).clamp(min=0)[..., None, None].expand(*labels.shape, 1, 2)
    own = shifts.gather(-2, index).squeeze(-2)
    return functional.smooth_l1_loss(own, targets, reduction="none").sum(-1)
