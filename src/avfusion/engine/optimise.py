"""Optimisers, the published parameter groups, and the learning rate of every epoch."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from avfusion.options import require


@dataclass(frozen=True)
class OptimiserOptions:
    """Optimiser and schedule; the defaults are those that MUSES was trained with.

    Attributes:
        optimizer: sgd (published for MUSES and P-GCN), adam (G-TAD; weight decay is part of the gradient) or
            adamw.
        lr: learning rate of the first epoch.
        momentum: of sgd.
        weight_decay: of everything but biases.
        bias_lr: factor on the learning rate of biases; 2 is a custom of the Caffe time that MUSES and P-GCN
            keep.
        bias_decay: factor on the weight decay of biases.
        steps: epochs, from 0, at whose beginning the learning rate falls.
        factor: by which it falls.
        accumulate: batches whose gradients are averaged for one step of the optimiser. What is left over at
            the end of an epoch is dropped, as published.
        step_at: the batch of every `accumulate` batches after which the step is taken: last, or, as P-GCN was
            published, first: then an epoch's first step follows one batch, whose gradient is divided by
            `accumulate` all the same.
        clip_norm: largest norm of all gradients together; null does not clip (published for MUSES and P-GCN).
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_lr: float = 2.0
    bias_decay: float = 0.0
    steps: tuple[int, ...] = (15, 30, 45)
    factor: float = 0.1
    accumulate: int = 32
    step_at: Literal["last", "first"] = "last"
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", f"must be above 0, not {self.lr}")
        require(0 <= self.momentum < 1, "momentum", f"must be in [0, 1), not {self.momentum}")
        for name in ("weight_decay", "bias_lr", "bias_decay"):
            require(getattr(self, name) >= 0, name, f"must not be negative, not {getattr(self, name)}")
        require(0 < self.factor <= 1, "factor", f"must be in (0, 1], not {self.factor}")
        require(self.accumulate >= 1, "accumulate", f"must be at least 1, not {self.accumulate}")
        clips = self.clip_norm is None or self.clip_norm > 0
        require(clips, "clip_norm", f"must be above 0 or null, not {self.clip_norm}")

    def steps_after(self, batch: int) -> bool:
        """Whether the optimiser takes a step after this batch of an epoch, counted from 0."""
        return batch % self.accumulate == (0 if self.step_at == "first" else self.accumulate - 1)


def parameter_groups(model: nn.Module, options: OptimiserOptions) -> list[dict[str, Any]]:
    """Weights and biases of a model as two groups of an optimiser, in the order of the model.

    `rate` is the factor on the learning rate. (A third published group, batch normalisation, is empty here.)
    """
    named = list(model.named_parameters())
    weights = [parameter for name, parameter in named if not name.endswith("bias")]
    biases = [parameter for name, parameter in named if name.endswith("bias")]
    decay = options.weight_decay
    return [
        {"params": weights, "rate": 1.0, "weight_decay": decay},
        {"params": biases, "rate": options.bias_lr, "weight_decay": options.bias_decay * decay},
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


def take_step(model: nn.Module, optimiser: torch.optim.Optimizer, options: OptimiserOptions) -> None:
    """One step with the gradients that are there, clipped if asked for; afterwards there are none."""
    if options.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
    optimiser.step()
    optimiser.zero_grad()
