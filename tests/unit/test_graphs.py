"""Neighbours and graphs of proposals. The published ones are in tests/parity/test_pgcn.py."""

import numpy as np
import pytest

from avfusion.detectors import graphs
from avfusion.detectors.graphs import GraphOptions, Ints, grow, grow_all, grow_many, neighbours, relations
from avfusion.errors import InputError
from avfusion.options import read_options


def proposals(count: int, seed: int = 0) -> Ints:
    rng = np.random.RandomState(seed)
    start = rng.randint(0, 200, count)
    return np.stack([start, start + rng.randint(0, 60, count)], axis=1)


def slow_neighbours(segments: Ints, options: GraphOptions, first_alike: bool) -> list[list[int]]:
    """One proposal and one pair at a time."""
    found = []
    for i, (start, end) in enumerate(segments.tolist()):
        overlapping, beside, equal = [], [], []
        for j, (other, last) in enumerate(segments.tolist()):
            shared = max(min(end, last) - max(start, other) + 1, 0)
            iou = shared / ((end - start + 1) + (last - other + 1) - shared)
            equal += [j] if iou == 1 else []
            overlapping += [(-iou, j)] if iou > options.overlapping_iou else []
            span = max(end, last) - min(start, other) + 1
            beside += [(abs(start + end - other - last) / 2 / span, j)] if shared == 0 else []
        own = equal[0] if first_alike else i
        overlapping = [pair for pair in overlapping if pair[1] != own]
        row = []
        for kind, count in ((overlapping, options.overlapping), (beside, options.beside)):
            nearest = [j for _, j in sorted(kind)][:count] or [own]
            row += [nearest[k % len(nearest)] for k in range(count)]
        found.append(row)
    return found


def test_touching_proposals_share_a_tick() -> None:
    iou, distance = relations(np.array([[0, 10]]), np.array([[10, 20], [11, 21], [0, 10], [5, 5]]))
    np.testing.assert_allclose(iou, [[1 / 21, 0, 1, 1 / 11]])
    np.testing.assert_allclose(distance, [[10 / 21, 11 / 22, 0, 0]])


@pytest.mark.parametrize("first_alike", [False, True])
@pytest.mark.parametrize("changes", [{}, {"overlapping_iou": 0.2}, {"overlapping": 3, "beside": 5}])
def test_neighbours_are_those_found_pair_by_pair(first_alike: bool, changes: dict[str, float]) -> None:
    options = read_options(GraphOptions, changes, "test")
    segments = np.concatenate([proposals(60), proposals(5)])  # some stand there twice
    assert neighbours(segments, options, first_alike).tolist() == slow_neighbours(
        segments, options, first_alike
    )


def test_a_table_made_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    segments = proposals(50)
    whole = neighbours(segments, GraphOptions(), first_alike=True)
    monkeypatch.setattr(graphs, "PAIRS_AT_ONCE", 50 * 7)
    np.testing.assert_array_equal(neighbours(segments, GraphOptions(), first_alike=True), whole)


def test_too_few_neighbours_are_repeated_and_none_is_the_proposal_itself() -> None:
    segments = np.array([[0, 99], [1, 99], [200, 300]])
    options = GraphOptions(overlapping=3, beside=2)
    assert neighbours(segments, options).tolist() == [[1, 1, 1, 2, 2], [0, 0, 0, 2, 2], [2, 2, 2, 0, 1]]
    assert neighbours(segments[:1], options).tolist() == [[0] * 5]
    assert neighbours(np.zeros((0, 2), dtype=np.int64), options).shape == (0, 5)


def test_a_repeated_proposal_takes_the_place_of_itself_only_when_predicting() -> None:
    segments = np.array([[0, 99], [0, 99]])
    options = GraphOptions(overlapping=4, beside=0)
    assert neighbours(segments, options).tolist() == [[1] * 4, [0] * 4]
    assert neighbours(segments, options, first_alike=True).tolist() == [[1] * 4, [1] * 4]


def test_a_graph_holds_neighbours_of_neighbours() -> None:
    options = GraphOptions(children=3, overlapping_iou=0.2)
    table = neighbours(proposals(40), options)
    found = grow_all(table, options.children, np.random.RandomState(0))
    assert found.shape == (40, options.nodes) == (40, 13)
    for root, nodes in enumerate(found.tolist()):
        assert nodes[0] == root
        for parent in range(4):
            assert set(nodes[3 * parent + 1 : 3 * parent + 4]) <= set(table[nodes[parent]].tolist())


def test_children_are_drawn_without_replacement() -> None:
    table = np.arange(100).reshape(10, 10)
    for seed in range(20):
        children = grow(4, table % 10, 4, np.random.RandomState(seed))[1:5]
        assert len(set(children)) == 4


def test_no_proposals_make_no_graphs() -> None:
    assert grow_all(np.zeros((0, 10), dtype=np.int64), 4, np.random.RandomState(0)).shape == (0, 21)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"children": 0}, "graph.*children: must be at least 1, not 0"),
        ({"overlapping": 0}, "overlapping: must be at least 1, not 0"),
        ({"beside": -1}, "beside: must not be negative, not -1"),
        ({"overlapping_iou": 1.1}, r"overlapping_iou: must be in \[0, 1\], not 1.1"),
        ({"children": 5, "overlapping": 4, "beside": 0}, "must not be more than the 4 neighbours"),
    ],
)
def test_bad_options(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_options(GraphOptions, changes, "config", "graph")


def test_many_graphs_at_once_are_drawn_with_the_statistics_of_one_by_one() -> None:
    rng = np.random.RandomState(0)
    table = np.arange(600)[:, None] % 6 * 100 + np.arange(6)  # neighbour k of proposal n is 100 (n mod 6) + k
    roots = np.repeat(np.arange(6), 3000)
    many = grow_many(roots, table, 2, rng)
    one = np.array([grow(int(root), table, 2, rng) for root in roots])
    assert many.shape == one.shape == (18000, 7)
    for drawn in (many, one):
        np.testing.assert_array_equal(drawn[:, 0], roots)
        for parent in range(3):  # children are neighbours of their parent, and differ
            children = drawn[:, 1 + 2 * parent : 3 + 2 * parent]
            assert (children // 100 == (drawn[:, parent] % 6)[:, None]).all()
            assert (children[:, 0] != children[:, 1]).all()
    pairs = [np.bincount(drawn[:, 3] % 100 * 6 + drawn[:, 4] % 100, minlength=36) for drawn in (many, one)]
    for counts in pairs:  # 30 ordered pairs, 600 times each on average
        assert np.count_nonzero(counts) == 30
        np.testing.assert_allclose(counts[counts > 0], 600, atol=130)
