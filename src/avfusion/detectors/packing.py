"""Only what is read is computed: the parts of videos that proposals pool, packed into one sequence.

A training step of a two-stage detector reads a few proposals per video. Convolutions over the whole of a
long video, and over the padding that makes videos of a batch equally long, are work that nobody sees: not in
the losses, not in the gradients. So the stretches that are read, each with as much of its surroundings as the
network sees, are put behind one another. What the network makes of the read snippets is the same as in the
whole video; what it makes of the surroundings is not, and must not be read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
MULTIPLE = 64  # packed sequences are filled up to a multiple of it: fewer different shapes, better alignment
SHARE_OF_DEVICE = 0.5  # of the free memory that features may take


def on_device(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """A copy on the device of an array, or of a tensor on the CPU, for which the host does not wait."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cuda" and tensor.device.type == "cpu":
        # From other memory CUDA would copy only after all that it still has to do.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fits_on(device: torch.device, size: int) -> bool:
    """Whether features of `size` bytes may stay on a CUDA device."""
    return device.type == "cuda" and size < SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]


class FeatureBank:
    """Features of all training videos in one table of snippets, on the device if they fit there.

    Args:
        features: float32 (T, C) of every video.
        device: where the network is.

    Attributes:
        lengths: int (V,), snippets T of every video.
        begins: int (V,), row of the first snippet of every video.
    """

    def __init__(self, features: Sequence[NDArray[np.float32]], device: torch.device) -> None:
        self.lengths = np.array([len(values) for values in features], dtype=np.int64)
        self.begins = np.cumsum(self.lengths) - self.lengths
        self._device = device
        # The last row stands for every place where there is no snippet.
        table = np.concatenate([*features, np.zeros_like(features[0][:1])], dtype=np.float32)
        self._table = torch.from_numpy(table)
        if fits_on(device, table.nbytes):
            self._table = self._table.to(device)

    @property
    def nothing(self) -> int:
        """Row of zeros."""
        return len(self._table) - 1

    def gather(self, rows: Ints) -> Tensor:
        """The rows (L, C), on the device."""
        index = on_device(rows, self._table.device)
        return on_device(self._table.index_select(0, index), self._device)


class Packed(NamedTuple):
    """Stretches of videos in one sequence of L snippets.

    Attributes:
        features: (1, C, L).
        inside: (1, 1, L), 0 where there is no snippet.
        shifts: int (N,), for every span by how many snippets it lies later here than in its video.
    """

    features: Tensor
    inside: Tensor
    shifts: Ints


def pack(bank: FeatureBank, videos: Ints, spans: Ints, reach: int, layers: int) -> Packed:
    """Pack the spans of videos that are going to be read, and what the network sees of their surroundings.

    Args:
        bank: holds the features.
        videos: (N,), the video of each span.
        spans: (N, 2), first snippet and end (exclusive) of each span, within its video and not empty.
        reach: snippets that a layer of the network reads on each side.
        layers: number of layers. Between them `inside` must be applied: beyond the ends of a video a layer
            reads zeros and not what the layer before it made of zeros.
    """
    halo = reach * layers
    # A time axis for all: video after video, so far apart that stretches of two never touch.
    origin = bank.begins + np.arange(len(bank.begins)) * (2 * halo + 1)
    starts, ends = origin[videos] + spans[:, 0], origin[videos] + spans[:, 1]
    order = np.argsort(starts, kind="stable")
    furthest = np.maximum.accumulate(ends[order])
    apart = starts[order][1:] - furthest[:-1] > 2 * halo  # else the surroundings would be computed twice
    opens = np.flatnonzero(np.concatenate([[True], apart]))
    closes = np.concatenate([opens[1:], [len(order)]]) - 1

    video = videos[order][opens]
    low = np.maximum(starts[order][opens] - halo, origin[video] - reach)
    high = np.minimum(furthest[closes] + halo, origin[video] + bank.lengths[video] + reach)
    position = np.cumsum(high - low) - (high - low)
    stretch = np.empty(len(order), dtype=np.int64)
    stretch[order] = np.cumsum(np.concatenate([[0], apart]))
    shifts = (position - low)[stretch] + origin[videos]

    rows = _rows(bank, video, low - origin[video], high - low)
    features = bank.gather(rows)
    inside = on_device((rows != bank.nothing).astype(np.float32), features.device)
    return Packed(features.T[None], inside[None, None], shifts)


def _rows(bank: FeatureBank, videos: Ints, firsts: Ints, lengths: Ints) -> Ints:
    """Rows of the bank for stretches that begin at snippet `firsts` and may stick out of their videos."""
    total = int(lengths.sum())
    snippet = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths - firsts, lengths)
    there = (snippet >= 0) & (snippet < np.repeat(bank.lengths[videos], lengths))
    rows = np.full(-(-total // MULTIPLE) * MULTIPLE, bank.nothing, dtype=np.int64)
    rows[:total] = np.where(there, np.repeat(bank.begins[videos], lengths) + snippet, bank.nothing)
    return rows
