"""Graphs of proposals (P-GCN): who is near whom, and which neighbours a proposal is looked at with.

Every proposal has a list of neighbours: first those that overlap it, then those that lie beside it. A graph
grows from one proposal, its root: C children drawn from the root's neighbours, and C children of each of
these. Its nodes are ordered root, children, children of the first child, ..., so that node k < C + 1 has the
children ``k C + 1 .. k C + C``. A node may stand in a graph several times.

Source: ``PGCNDataSet`` and the sampler of ``pgcn_test.py`` of the P-GCN code (Zeng et al., ICCV 2019).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avfusion.options import require

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
PAIRS_AT_ONCE = 1 << 21  # pairs of proposals that are compared at once; some 100 MB


@dataclass(frozen=True)
class GraphOptions:
    """How graphs of proposals are built; defaults as published.

    Attributes:
        children: of every node but the leaves.
        overlapping: neighbours by tIoU, the largest first,
        overlapping_iou: with a larger tIoU than this.
        beside: neighbours by distance, the nearest first; they do not overlap the proposal.
    """

    children: int = 4
    overlapping: int = 8
    overlapping_iou: float = 0.7
    beside: int = 2

    def __post_init__(self) -> None:
        for name in ("children", "overlapping"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        require(self.beside >= 0, "beside", f"must not be negative, not {self.beside}")
        inside = 0 <= self.overlapping_iou <= 1
        require(inside, "overlapping_iou", f"must be in [0, 1], not {self.overlapping_iou}")
        enough = self.children <= self.overlapping + self.beside
        require(enough, "children", f"must not be more than the {self.overlapping + self.beside} neighbours")

    @property
    def nodes(self) -> int:
        """Nodes of a graph."""
        return 1 + self.children + self.children**2


def relations(some: Ints, others: Ints) -> tuple[Floats, Floats]:
    """Overlap and distance of proposals in ticks, which count both ends: touching proposals share a tick.

    Args:
        some: (M, 2), start and end.
        others: (N, 2).

    Returns:
        tIoU (M, N); distance of the centres in units of the span of both (M, N), 0 to 1.
    """
    (start, end), (other_start, other_end) = some.T[:, :, None], others.T[:, None, :]
    shared = np.maximum(np.minimum(end, other_end) - np.maximum(start, other_start) + 1, 0)
    lengths = (end - start + 1) + (other_end - other_start + 1)
    span = np.maximum(end, other_end) - np.minimum(start, other_start) + 1
    return shared / (lengths - shared), np.abs(start + end - other_start - other_end) / 2 / span


def neighbours(segments: Ints, options: GraphOptions, first_alike: bool = False) -> Ints:
    """The neighbours of every proposal of a video.

    Of equally near proposals the earlier one comes first. Where there are fewer neighbours of a kind than
    asked for they are repeated in turn; where there are none, the proposal itself stands for them.

    Args:
        segments: (N, 2), start and end in ticks, start <= end.
        options: how many neighbours of each kind.
        first_alike: take the first of all equal proposals for the proposal itself, as the published code does
            when predicting, so that a repeated proposal can be its own neighbour.

    Returns:
        (N, overlapping + beside), indices of proposals.
    """
    found = np.empty((len(segments), options.overlapping + options.beside), dtype=np.int64)
    for rows in _blocks(len(segments)):
        iou, distance = relations(segments[rows], segments)
        own = iou.argmax(axis=1) if first_alike else np.arange(len(segments))[rows]
        apart = np.where((iou <= 0) & (distance > 0), distance, np.inf)
        overlap = np.where(iou > options.overlapping_iou, -iou, np.inf)
        np.put_along_axis(overlap, own[:, None], np.inf, axis=1)
        found[rows, : options.overlapping] = _nearest(overlap, options.overlapping, own)
        found[rows, options.overlapping :] = _nearest(apart, options.beside, own)
    return found


def grow(root: int, table: Ints, children: int, rng: np.random.RandomState) -> list[int]:
    """The nodes of a graph.

    ``RandomState(seed)`` draws what the published code does after ``numpy.random.seed(seed)``.

    Args:
        root: index of a proposal.
        table: `neighbours` of all proposals.
        children: drawn per node without replacement, the root's first, then those of each child.
        rng: source of randomness.
    """
    nodes = [root]
    for parent in range(children + 1):
        chosen = rng.permutation(table.shape[1])[:children]
        nodes.extend(table[nodes[parent], chosen].tolist())
    return nodes


def grow_many(roots: Ints, table: Ints, children: int, rng: np.random.RandomState) -> Ints:
    """Graphs around many proposals, (N, nodes): `grow` of all at once, with other numbers from `rng`.

    Args:
        roots: (N,), indices of proposals.
        table: `neighbours` of all proposals, (M, K).
        children: drawn per node.
        rng: source of randomness.
    """

    def chosen(parents: Ints) -> Ints:
        shuffled = rng.random_sample((len(parents), table.shape[1])).argsort(axis=1)
        return np.take_along_axis(table[parents], shuffled[:, :children], axis=1)

    first = chosen(roots)
    second = chosen(first.ravel()).reshape(len(roots), children**2)
    return np.concatenate([roots[:, None], first, second], axis=1)


def grow_all(table: Ints, children: int, rng: np.random.RandomState) -> Ints:
    """A graph from every proposal in turn, (N, nodes)."""
    graphs = [grow(root, table, children, rng) for root in range(len(table))]
    return np.array(graphs, dtype=np.int64).reshape(len(table), 1 + children + children**2)


def _blocks(count: int) -> Iterator[slice]:
    size = max(PAIRS_AT_ONCE // max(count, 1), 1)
    for begin in range(0, count, size):
        yield slice(begin, begin + size)


def _nearest(cost: Floats, count: int, own: Ints) -> Ints:
    """Indices of the `count` cheapest of every row, repeated in turn; infinite costs do not count."""
    cost, rows = cost.copy(), np.arange(len(cost))
    order, available = np.zeros((len(cost), count), dtype=np.int64), np.zeros(len(cost), dtype=np.int64)
    for place in range(count):  # the first of equals, which sorting would take far longer to find
        best = cost.argmin(axis=1)
        order[:, place] = best
        available += np.isfinite(cost[rows, best])
        cost[rows, best] = np.inf
    turn = np.arange(count) % np.maximum(available, 1)[:, None]
    return np.where(available[:, None] > 0, np.take_along_axis(order, turn, axis=1), own[:, None])
