"""What the engine asks of a detector; nothing here assumes that there are proposals.

The engine owns epochs, optimiser, logs, checkpoints and devices. A detector owns what one training example
is, its losses, and what it says of a video. To add one: a module with a subclass of `Detector`, a dataclass
`Options` and a function ``build(options, widths, classes)`` (`widths`: channels of every stream of the
features), and a line in ``avfusion.detectors.DETECTORS``. Where it was published with another training than
MUSES, a dictionary ``TRAINING`` in the module holds the options of `avfusion.engine.train.TrainingOptions`
that differ.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avfusion.data.features import VideoFeatures
from avfusion.data.proposals import Segments

Prediction = TypeVar("Prediction")
TOTAL = "total"


def _no_segments() -> Segments:
    return np.zeros((0, 2))


def _no_classes() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Video:
    """One video as a detector sees it.

    Attributes:
        name: id, for messages.
        features: of all its streams, already fused.
        proposals: float64 (N, 2) of [start, end] in seconds; empty for detectors that need none.
        instances: float64 (G, 2), what happens in it, in seconds; empty when predicting.
        classes: int64 (G,), index of the class of every instance, from 0.
    """

    name: str
    features: VideoFeatures
    proposals: Segments = field(default_factory=_no_segments)
    instances: Segments = field(default_factory=_no_segments)
    classes: NDArray[np.int64] = field(default_factory=_no_classes)


def channels_first(features: VideoFeatures) -> Tensor:
    """Features as (C, T), a copy even of a single channel: features may lie in a file."""
    return torch.from_numpy(np.array(features.values.T, dtype=np.float32, order="C"))


class TrainingSet(ABC):
    """What one pass over the training data goes through: videos, windows, or whatever a detector needs."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples in a pass."""

    @abstractmethod
    def draw(self, index: int, rng: np.random.RandomState) -> Any:
        """Example `index`, with what is random about it (such as the proposals chosen) drawn from `rng`."""

    def draw_many(self, indices: Sequence[int], rng: np.random.RandomState) -> Sequence[Any]:
        """Several examples, by default one `draw` after the other.

        To be overridden where it is faster at once; the statistics must be those of `draw`, the numbers that
        `rng` gives for them may be others.
        """
        return [self.draw(index, rng) for index in indices]


class Detector(nn.Module, ABC, Generic[Prediction]):
    """A network that finds actions in the features of a video.

    Attributes:
        needs_proposals: whether `Video.proposals` must be there.
        mixed_precision: whether training may compute in bfloat16 where the option `precision` leaves that to
            the engine: losses, and what is sensitive before them, must then see to float32 themselves.
        options: the dataclass of options that it was built with.
    """

    needs_proposals: bool = False
    mixed_precision: bool = False
    options: Any

    @abstractmethod
    def training_set(self, videos: Sequence[Video]) -> TrainingSet:
        """Prepare training on `videos`, and fit what the detector measures on them (see `statistics`)."""

    @abstractmethod
    def training_step(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses by name for a batch of examples of the training set; the one named "total" is minimised."""

    def training_steps(self, batches: Sequence[Sequence[Any]]) -> dict[str, Tensor]:
        """Losses (n,) by name of n batches, each the one that `training_step` gives the batch alone.

        To be overridden where several batches at once are faster than one after the other. No loss may be
        waited for (``.item()``): the device works while the next examples are drawn.
        """
        alone = [self.training_step(batch) for batch in batches]
        return {name: torch.stack([losses[name] for losses in alone]) for name in alone[0]}

    @abstractmethod
    def predict(self, video: Video) -> Prediction:
        """What the detector says of a video, without gradients: one of the artefacts of ``avfusion.data``."""

    def statistics(self) -> Mapping[str, Tensor]:
        """Tensors beside the parameters that a checkpoint must hold for `predict` to work."""
        return {}

    def load_statistics(self, statistics: Mapping[str, Tensor]) -> None:
        """Take over what `statistics` returned when the checkpoint was written."""
