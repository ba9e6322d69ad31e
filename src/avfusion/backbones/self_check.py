"""The published self-check of VGGish: a tone of which the statistics of the embeddings are known.

AudioSet's smoke test: three seconds of a sine of 1 kHz; mean and deviation of all embedding values before and
after the post-processing, to be met within a tenth.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from avfusion.backbones.vggish import PcaParameters, VGGish
from avfusion.media.log_mel import RATE, examples, log_mel
from avfusion.media.resample import kaiser_best

SECONDS, FREQUENCY, SAMPLE_RATE = 3, 1000, 44_100
EMBEDDINGS = (0.131, 0.238)  # mean, standard deviation; of the network that ends in a ReLU
PROCESSED = (123.0, 75.0)
TOLERANCE = 0.1


@dataclass(frozen=True)
class Outcome:
    """One line of the check.

    Attributes:
        what: what was looked at.
        found: mean and standard deviation.
        expected: those published.
    """

    what: str
    found: tuple[float, float]
    expected: tuple[float, float]

    @property
    def passed(self) -> bool:
        """Whether both are met within a tenth."""
        return bool(np.allclose(self.found, self.expected, rtol=TOLERANCE, atol=0))

    def __str__(self) -> str:
        (mean, deviation), (published_mean, published_deviation) = self.found, self.expected
        return (
            f"{self.what}: mean {mean:.3f} (published {published_mean:g}), "
            f"standard deviation {deviation:.3f} ({published_deviation:g})"
        )


def tone_examples() -> NDArray[np.float32]:
    """The log-mel examples (3, 96, 64) of the tone."""
    times = np.linspace(0, SECONDS, SECONDS * SAMPLE_RATE)
    tone = np.sin(2 * np.pi * FREQUENCY * times)
    return examples(log_mel(kaiser_best(tone, SAMPLE_RATE, RATE)))


def check_vggish(network: VGGish, pca: PcaParameters | None = None) -> Iterator[Outcome]:
    """Run the self-check.

    Args:
        network: of width 1, in evaluation mode, with a final ReLU.
        pca: parameters of the post-processing, to check it too.
    """
    with torch.inference_mode():
        values = network(torch.from_numpy(tone_examples())).numpy()
    yield Outcome("embeddings of a tone", (float(values.mean()), float(values.std())), EMBEDDINGS)
    if pca is not None:
        levels = pca.quantise(values, "down").astype(float)
        yield Outcome("after post-processing", (float(levels.mean()), float(levels.std())), PROCESSED)
