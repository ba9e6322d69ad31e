"""Parameter groups, optimisers, learning rates. The published schedule is in tests/parity/test_muses.py."""

import pytest
import torch
from torch import nn

from avfusion.engine.optimise import OptimiserOptions, learning_rate, make_optimiser


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
