"""Parameter groups, optimisers, learning rates. The published schedule is in tests/parity/test_muses.py."""

import pytest
import torch
from torch import nn

from avfusion.engine.optimise import OptimiserOptions, learning_rate, make_optimiser, take_step


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_biases_learn_twice_as_fast_and_do_not_decay(name: str, kind: type) -> None:
    options = OptimiserOptions(optimizer=name, lr=0.5, weight_decay=0.25)  # type: ignore[arg-type]
    optimiser = make_optimiser(nn.Linear(2, 3), options)
    assert type(optimiser) is kind
    assert [(group["lr"], group["weight_decay"]) for group in optimiser.param_groups] == [
        (0.5, 0.25),
        (1.0, 0.0),
    ]
    assert [tuple(group["params"][0].shape) for group in optimiser.param_groups] == [(3, 2), (3,)]


def test_the_rate_falls_at_every_step() -> None:
    options = OptimiserOptions(lr=1.0, steps=(2, 3), factor=0.5)
    assert [learning_rate(options, epoch) for epoch in range(5)] == [1.0, 1.0, 0.5, 0.25, 0.25]


def test_momentum_reaches_sgd() -> None:
    optimiser = make_optimiser(nn.Linear(2, 3), OptimiserOptions(momentum=0.75))
    assert {group["momentum"] for group in optimiser.param_groups} == {0.75}


def test_biases_may_learn_and_decay_like_everything_else() -> None:
    options = OptimiserOptions(optimizer="adam", lr=0.5, weight_decay=0.25, bias_lr=1.0, bias_decay=1.0)
    groups = make_optimiser(nn.Linear(2, 3), options).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.5, 0.25), (0.5, 0.25)]


def test_adam_decays_by_the_gradient_as_published() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    options = OptimiserOptions(optimizer="adam", lr=0.1, weight_decay=0.5)
    optimiser = make_optimiser(model, options)
    model.weight.grad = torch.zeros(1, 1)
    take_step(model, optimiser, options)
    assert model.weight.item() == pytest.approx(0.9)  # a first step of Adam is lr, however small the gradient
    assert model.weight.grad is None


@pytest.mark.parametrize(
    ("at", "wanted"), [("last", [False, False, True] * 2), ("first", [True, False, False] * 2)]
)
def test_which_batch_takes_the_step(at: str, wanted: list[bool]) -> None:
    options = OptimiserOptions(accumulate=3, step_at=at)  # type: ignore[arg-type]
    assert [options.steps_after(batch) for batch in range(6)] == wanted


def test_large_gradients_are_clipped_together() -> None:
    model = nn.Linear(2, 1)
    options = OptimiserOptions(lr=1.0, momentum=0.0, weight_decay=0.0, bias_lr=1.0, clip_norm=0.5)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    take_step(model, make_optimiser(model, options), options)
    moves = [(new - old).flatten() for new, old in zip(model.parameters(), before, strict=True)]
    assert torch.cat(moves).norm().item() == pytest.approx(0.5, rel=1e-5)
