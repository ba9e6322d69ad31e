"""VGGish: 0.96 s of log-mel spectrogram to 128 numbers.

Hershey et al., "CNN Architectures for Large-Scale Audio Classification", ICASSP 2017; released with AudioSet.
Layers carry the names of the torchvggish checkpoints (vggish-10086976.pth).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avfusion.errors import InputError
from avfusion.files import sha256
from avfusion.media.log_mel import BANDS, EXAMPLE_FRAMES

EMBEDDING = 128
HIDDEN = 4096
AT_ONCE = 8  # examples that a CPU convolves at a time, so that they stay in its cache
# Output channels of the 3x3 convolutions; "pool" halves both axes.
LAYERS: tuple[int | Literal["pool"], ...] = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")

Rounding = Literal["nearest", "down"]
PCA_RANGE = (-2.0, 2.0)  # of the projected values that become 0 and 255


class VGGish(nn.Module):
    """The VGGish network, from log-mel examples to embeddings (before any PCA).

    Args:
        width: factor on the channels of the hidden layers; 1 is the published network. The embedding
            keeps its 128 values.
        final_relu: end in a ReLU, as torchvggish does. The TF-Hub model that tal-hmo used does not.
    """

    def __init__(self, width: float = 1.0, final_relu: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, poolings = 1, 0
        for layer in LAYERS:
            if layer == "pool":
                layers.append(nn.MaxPool2d(2, 2))
                poolings += 1
            else:
                outputs = _scaled(layer, width)
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                channels = outputs
        self.features = nn.Sequential(*layers)
        places = (EXAMPLE_FRAMES >> poolings) * (BANDS >> poolings)
        hidden = _scaled(HIDDEN, width)
        embeddings: list[nn.Module] = [
            nn.Linear(channels * places, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, EMBEDDING),
        ]
        self.embeddings = nn.Sequential(*embeddings, *([nn.ReLU(inplace=True)] if final_relu else []))
        self.channels = EMBEDDING

    def forward(self, examples: Tensor) -> Tensor:
        """Embeddings (N, 128) of examples (N, 96, 64) or (N, 1, 96, 64)."""
        x = examples[:, None] if examples.dim() == 3 else examples
        parts = x.split(AT_ONCE) if x.device.type == "cpu" else [x]
        # The first linear layer counts its inputs as TensorFlow does: channels last.
        x = torch.cat([self.features(part).permute(0, 2, 3, 1).flatten(1) for part in parts])
        return self.embeddings(x)


@dataclass(frozen=True)
class PcaParameters:
    """AudioSet's post-processing: projection onto principal components, then 8 bits.

    Attributes:
        eigen_vectors: (128, 128), a component per row.
        means: (128,), subtracted first.
    """

    eigen_vectors: NDArray[np.float64]
    means: NDArray[np.float64]

    @classmethod
    def read(cls, path: str | Path) -> "PcaParameters":
        """Read AudioSet's vggish_pca_params.npz (keys pca_eigen_vectors and pca_means).

        Raises:
            InputError: no such file, another kind of file, or arrays of another shape.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                vectors, means = (
                    np.asarray(file[key], np.float64) for key in ("pca_eigen_vectors", "pca_means")
                )
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                path, f"no VGGish PCA parameters ({error}); expected vggish_pca_params.npz"
            ) from error
        if vectors.shape != (EMBEDDING, EMBEDDING) or means.size != EMBEDDING:
            raise InputError(path, f"has shapes {vectors.shape} and {means.shape}, not (128, 128) and (128,)")
        return cls(vectors, means.ravel())

    def project(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Coordinates (N, 128) of embeddings (N, 128) along the components, before clipping."""
        return (np.asarray(embeddings, np.float64) - self.means) @ self.eigen_vectors.T

    def quantise(self, embeddings: NDArray[np.floating], rounding: Rounding = "nearest") -> NDArray[np.uint8]:
        """The 8-bit embeddings (N, 128) that AudioSet ships, of embeddings (N, 128).

        Args:
            rounding: "nearest" is torchvggish's, "down" that of AudioSet's own code (which casts). They
                differ by 0 or 1.
        """
        low, high = PCA_RANGE
        levels = (np.clip(self.project(embeddings), low, high) - low) * (255 / (high - low))
        return (np.round(levels) if rounding == "nearest" else levels).astype(np.uint8)


@dataclass(frozen=True)
class PostProcessing:
    """AudioSet's post-processing as a step of extraction.

    Attributes:
        parameters: of the projection.
        rounding: see `PcaParameters.quantise`.
        source: SHA-256 of the file of the parameters, for the feature file.
    """

    parameters: PcaParameters
    rounding: Rounding
    source: str

    @classmethod
    def read(cls, path: str | Path, rounding: Rounding = "nearest") -> "PostProcessing":
        """Read vggish_pca_params.npz.

        Raises:
            InputError: see `PcaParameters.read`.
        """
        return cls(PcaParameters.read(path), rounding, sha256(path))

    def __str__(self) -> str:
        return f"pca sha256:{self.source}, 8 bits rounded {self.rounding}"

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """The whole numbers 0..255 (N, 128) of embeddings (N, 128)."""
        return self.parameters.quantise(embeddings, self.rounding).astype(np.float32)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
