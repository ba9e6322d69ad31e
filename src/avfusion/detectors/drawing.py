"""Proposals of many videos drawn at once: the sequences of `draw_sample`, without a call per video."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avfusion.detectors.sampling import FOREGROUND, Floats, Ints, VideoPools


@dataclass(frozen=True, eq=False)
class SampleTable:
    """G samples of P proposals, each from one video; columns as in `sampling.Sample`.

    Attributes:
        rois: int (G, P, 4).
        kinds: int (G, P).
        labels: int (G, P).
        targets: float32 (G, P, 2).
    """

    rois: Ints
    kinds: Ints
    labels: Ints
    targets: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rois)

    def __getitem__(self, groups: slice) -> "SampleTable":
        return SampleTable(self.rois[groups], self.kinds[groups], self.labels[groups], self.targets[groups])

    @classmethod
    def joined(cls, tables: Iterable["SampleTable"]) -> "SampleTable":
        """The samples of several tables, one after the other."""
        columns = zip(*((t.rois, t.kinds, t.labels, t.targets) for t in tables), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


class PoolTable:
    """The pools of all training videos behind one another in one table.

    Args:
        pools: by video; no foreground is empty.
        statistics: of `regression_statistics`, by which targets are normalised.
        counts: foreground, incomplete and background proposals in a sample.
    """

    def __init__(self, pools: Sequence[VideoPools], statistics: Floats, counts: tuple[int, int, int]) -> None:
        wanted = [(video.foreground, video.incomplete, video.background) for video in pools]
        flat = [pool for kinds in wanted for pool in kinds]
        sizes = np.array([len(pool) for pool in flat], dtype=np.int64).reshape(-1, 3)
        begins = np.cumsum(sizes).reshape(-1, 3) - sizes
        # For an empty pool the foreground stands in, keeping its kind.
        begins, sizes = np.where(sizes > 0, begins, begins[:, :1]), np.where(sizes > 0, sizes, sizes[:, :1])
        self._begins, self._sizes = (np.repeat(table, counts, axis=1) for table in (begins, sizes))

        self._rois = np.concatenate([pool.rois for pool in flat])
        self._labels = np.concatenate([pool.labels for pool in flat])
        self._kinds = np.concatenate([np.full(len(pool), pool.kind) for pool in flat])
        normalised = (np.concatenate([pool.targets for pool in flat]) - statistics[0]) / statistics[1]
        normalised[self._kinds != FOREGROUND] = 0
        self._targets = normalised.astype(np.float32)

    def choose(self, videos: Ints, rng: np.random.RandomState) -> Ints:
        """Rows (G, P) of the table for one sample, with replacement, from each of `videos` (G,) in turn.

        The numbers drawn from `rng` and the choice are those of one `draw_sample` after the other. Row r of a
        video is its r-th proposal, foreground first, then incomplete, then background.
        """
        return self._begins[videos] + rng.randint(0, self._sizes[videos])

    def at(self, chosen: Ints) -> SampleTable:
        """The samples that consist of rows (G, P)."""
        return SampleTable(
            self._rois[chosen], self._kinds[chosen], self._labels[chosen], self._targets[chosen]
        )
