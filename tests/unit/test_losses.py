"""The losses on cases small enough to compute by hand."""

import pytest
import torch
from torch import Tensor

from avfusion.detectors.losses import completeness_loss, regression_loss


def completeness(scores: Tensor, labels: Tensor, counted: Tensor | None = None) -> float:
    mask = torch.ones_like(labels, dtype=torch.bool) if counted is None else counted
    return completeness_loss(scores, labels, mask, 1, 0.17).item()


def test_completeness_takes_the_hardest_incomplete_proposal_of_every_group() -> None:
    own = torch.tensor([[0.25, -3.0, 0.5, 0.1, -2.0, 0.0, 0.4], [2.0, -0.5, -2.0, -3.0, -4.0, -5.0, -6.0]])
    scores = torch.stack([torch.full_like(own, 100.0), own], dim=2)  # only class 2 counts
    labels = torch.full((2, 7), 2)
    # (1 - 0.25) + (1 + 0.5) and 0 + (1 - 0.5), by 2 complete + floor(12 * 0.17) = 2
    assert completeness(scores, labels) == pytest.approx((0.75 + 1.5 + 0.0 + 0.5) / 4)


def test_proposals_that_do_not_count_take_no_part() -> None:
    scores = torch.tensor([[[0.0], [9.0], [1.0], [0.0], [0.0], [0.0], [0.0]]])
    labels = torch.tensor([[1, 0, 1, 1, 1, 1, 1]])
    counted = torch.ones(1, 7, dtype=torch.bool)
    counted[0, 1] = False
    assert completeness(scores, labels, counted) == pytest.approx((1 + 2) / 2)
    counted[0, 1:] = False
    assert completeness(scores, labels, counted) == pytest.approx(1 / 2)


def test_regression_looks_at_the_own_class_only() -> None:
    shifts = torch.tensor([[[9.0, 9.0], [0.5, 3.0]], [[1.0, 0.0], [9.0, 9.0]]], requires_grad=True)
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.5]])
    loss = regression_loss(shifts, torch.tensor([2, 1]), targets)
    # smooth L1 of 0.5, 2, 0 and 0.5; mean, times 2
    assert loss.item() == pytest.approx(2 * (0.125 + 1.5 + 0.0 + 0.125) / 4)
    loss.backward()
    assert shifts.grad is not None
    assert shifts.grad[0, 0].tolist() == [0.0, 0.0] and shifts.grad[1, 1].tolist() == [0.0, 0.0]


def test_regression_without_foreground_is_zero_and_still_has_a_gradient() -> None:
    shifts = torch.zeros(0, 3, 2, requires_grad=True)
    loss = regression_loss(shifts, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2))
    loss.backward()
    assert loss.item() == 0.0
