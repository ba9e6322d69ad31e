"""Standardised features: every channel with mean 0 and deviation 1 over the training snippets.

Published detectors take features as they are (the default). Features of small networks trained from
scratch have scales that differ by stream, which this evens out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfusion.data.features import VideoFeatures


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Mean and deviation of every channel, float64 (C,)."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def __call__(self, features: VideoFeatures) -> VideoFeatures:
        """Standardised features; a channel that never changed stays 0."""
        values = (features.values - self.mean) / self.deviation
        return replace(features, values=values.astype(np.float32))

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint holds it."""
        return {
            "feature_mean": torch.from_numpy(self.mean),
            "feature_deviation": torch.from_numpy(self.deviation),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Standardiser | None":
        """What a checkpoint holds; None if its features were not standardised."""
        if "feature_mean" not in tensors:
            return None
        return cls(tensors["feature_mean"].numpy(), tensors["feature_deviation"].numpy())

    @classmethod
    def fit(cls, features: Sequence[VideoFeatures]) -> "Standardiser":
        """Measure all snippets of some videos, one video at a time."""
        count = sum(len(video.values) for video in features)
        mean = sum(video.values.sum(axis=0, dtype=np.float64) for video in features) / count
        squares = sum(np.square(video.values - mean).sum(axis=0) for video in features)
        deviation = np.sqrt(squares / count)
        return cls(mean, np.where(deviation > 0, deviation, 1.0))
