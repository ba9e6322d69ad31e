"""How long, in which order and in which portions a training goes through its examples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from avfusion.detectors import find_detector
from avfusion.engine.optimise import OptimiserOptions
from avfusion.errors import InputError
from avfusion.options import read_options, require

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingOptions(OptimiserOptions):
    """How to train; the defaults are those that MUSES was trained with on THUMOS14.

    Attributes:
        epochs: number of epochs; the schedule of the learning rate counts in them.
        passes: times that an epoch goes through the training data.
        batch_size: examples (MUSES: videos) per batch.
        at_once: batches that are computed together, each with the losses that it has alone. A matter of
            speed and memory; in the result, of rounding and of which random numbers dropout gets. null: all
            that make a step of the optimiser.
        precision: float32 (published); bfloat16: networks compute in it, weights and losses stay float32; or
            auto: bfloat16 on a CUDA device that has it with a detector made for it, else float32.
        standardise: give every channel mean 0 and deviation 1 over the training data; published: false.
        window: snippets of the windows that longer videos are cut into for training (MUSES, on its own
            dataset: 400); null: whole videos.
    """

    epochs: int = 20
    passes: int = 20
    batch_size: int = 1
    at_once: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    standardise: bool = False
    window: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "passes", "batch_size"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        cut = self.window is None or self.window >= 1
        require(cut, "window", f"must be at least 1 or null, not {self.window}")
        given = self.at_once is None or self.at_once >= 1
        require(given, "at_once", f"must be at least 1 or null, not {self.at_once}")

    def batches_per_epoch(self, examples: int) -> int:
        """Number of batches of an epoch, the last of which may be smaller."""
        return -(-examples * self.passes // self.batch_size)


def published_training(detector: str, source: str = "config") -> TrainingOptions:
    """The options with which a detector was published: the defaults, changed by ``TRAINING`` of its module.

    Raises:
        InputError: there is no such detector.
    """
    return read_options(TrainingOptions, published_changes(detector, source), source, "training")


def published_changes(detector: str, source: str = "config") -> dict[str, Any]:
    """The training options in which a detector differs from the defaults, by name."""
    return dict(getattr(find_detector(detector, source), "TRAINING", {}))


@dataclass(frozen=True)
class Chunk:
    """Consecutive batches that are computed at once.

    Attributes:
        batches: the examples of each.
        steps: whether a step of the optimiser follows.
        last: whether the epoch ends with them.
    """

    batches: list[Ints]
    steps: bool
    last: bool


def draw_order(examples: int, options: TrainingOptions, rng: np.random.RandomState) -> Ints:
    """The examples of an epoch in an order of its own."""
    order: Ints = rng.permutation(examples * options.passes) % examples
    return order


def chunks(order: Ints, options: TrainingOptions) -> Iterator[Chunk]:
    """An epoch in chunks: as many batches at once as the options allow, and none across a step."""
    size = options.batch_size
    batches = [order[begin : begin + size] for begin in range(0, len(order), size)]
    most = options.at_once or options.accumulate
    pending: list[Ints] = []
    for index, batch in enumerate(batches):
        pending.append(batch)
        steps, last = options.steps_after(index), index == len(batches) - 1
        if steps or last or len(pending) == most:
            yield Chunk(pending, steps, last)
            pending = []


def check_schedule(options: TrainingOptions, examples: int, source: str) -> None:
    """Refuse a schedule that would train nothing.

    Raises:
        InputError: there is no example, or an epoch is too short for a step of the optimiser.
    """
    if examples == 0:
        raise InputError("annotations", "no video with features has an instance to train on")
    batches = options.batches_per_epoch(examples)
    if options.step_at == "last" and batches < options.accumulate:
        problem = (
            f"no step would ever be taken: {options.accumulate} batches make a step, and an epoch has "
            f"{batches} ({examples} videos x {options.passes} passes / {options.batch_size} per batch)"
        )
        raise InputError(source, problem, "training.accumulate")
