"""Optimisers, the published parameter groups, and the learning rate of every epoch."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from avfusion.options import require

BIAS_RATE = 2.0  # biases learn twice as fast and do not decay, a custom of the Caffe time that MUSES keeps


@dataclass(frozen=True)
class OptimiserOptions:
    """Optimiser and schedule; the defaults are those that MUSES was trained with.

    Attributes:
        optimizer: sgd (published), adam or adamw.
        lr: learning rate of the first epoch.
        momentum: of sgd.
        weight_decay: of everything but biases.
        steps: epochs, from 0, at whose beginning the learning rate falls.
        factor: by which it falls.
        accumulate: batches whose gradients are averaged for one step of the optimiser. What is left over at
            the end of an epoch is dropped, as published.
        clip_norm: largest norm of all gradients together; null does not clip (published).
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    steps: tuple[int, ...] = (15, 30, 45)
    factor: float = 0.1
    accumulate: int = 32
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", f"must be above 0, not {self.lr}")
        require(0 <= self.momentum < 1, "momentum", f"must be in [0, 1), not {self.momentum}")
        require(self.weight_decay >= 0, "weight_decay", f"must not be negative, not {self.weight_decay}")
        require(0 < self.factor <= 1, "factor", f"must be in (0, 1], not {self.factor}")
        require(self.accumulate >= 1, "accumulate", f"must be at least 1, not {self.accumulate}")
        clips = self.clip_norm is None or self.clip_norm > 0
        require(clips, "clip_norm", f"must be above 0 or null, not {self.clip_norm}")


def parameter_groups(model: nn.Module, options: OptimiserOptions) -> list[dict[str, Any]]:
    """Weights and biases of a model as two groups of an optimiser, in the order of the model.

    `rate` is the factor on the learning rate. (A third published group, batch normalisation, is empty here.)
    """
    named = list(model.named_parameters())
    weights = [parameter for name, parameter in named if not name.endswith("bias")]
    biases = [parameter for name, parameter in named if name.endswith("bias")]
    return [
        {"params": weights, "rate": 1.0, "weight_decay": options.weight_decay},
        {"params": biases, "rate": BIAS_RATE, "weight_decay": 0.0},
    ]


def make_optimiser(model: nn.Module, options: OptimiserOptions) -> torch.optim.Optimizer:
    """The optimiser that `options` ask for, at the learning rate of the first epoch."""
    groups = parameter_groups(model, options)
    optimiser: torch.optim.Optimizer
    match options.optimizer:
        case "sgd":
            optimiser = torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)
        case "adam":
            optimiser = torch.optim.Adam(groups, lr=options.lr)
        case "adamw":
            optimiser = torch.optim.AdamW(groups, lr=options.lr)
    set_rate(optimiser, options.lr)
    return optimiser


def learning_rate(options: OptimiserOptions, epoch: int) -> float:
    """Learning rate of an epoch, counted from 0."""
    return float(options.lr * options.factor ** sum(epoch >= step for step in options.steps))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in every group times the group's factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]
