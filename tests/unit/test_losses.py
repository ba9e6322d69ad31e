"""The losses on cases small enough to compute by hand."""

import pytest
import torch
from torch import Tensor

from avfusion.detectors.losses import completeness_loss, masked_mean, regression_errors


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
    loss = regression_errors(shifts, torch.tensor([2, 1]), targets).mean()
    # smooth L1 of 0.5, 2, 0 and 0.5; mean, times 2
    assert loss.item() == pytest.approx(2 * (0.125 + 1.5 + 0.0 + 0.125) / 4)
    loss.backward()
    assert shifts.grad is not None
    assert shifts.grad[0, 0].tolist() == [0.0, 0.0] and shifts.grad[1, 1].tolist() == [0.0, 0.0]


def test_the_mean_over_nothing_is_zero_and_still_has_a_gradient() -> None:
    values = torch.ones(2, 3, requires_grad=True)
    counted = torch.tensor([[True, True, False], [False, False, False]])
    means = masked_mean(values, counted, torch.eye(2))
    assert means.tolist() == [1.0, 0.0]
    means.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_batches_are_divided_by_their_own_counts() -> None:
    scores, labels = torch.linspace(-1, 2, 42).reshape(3, 7, 2), torch.ones(3, 7, dtype=torch.int64)
    counted = torch.ones(3, 7, dtype=torch.bool)
    counted[1, 2:] = False
    members = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    losses = completeness_loss(scores, labels, counted, 1, 0.17, members)
    for groups, loss in (([0, 2], losses[0]), ([1], losses[1])):
        alone = completeness_loss(scores[groups], labels[groups], counted[groups], 1, 0.17)
        assert loss.item() == pytest.approx(alone.item(), rel=1e-6)
