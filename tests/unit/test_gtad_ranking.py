"""Soft suppression and ranking of G-TAD's candidates, beyond the published numbers."""

import numpy as np
import pytest

from avfusion.data.proposals import RankedProposals
from avfusion.detectors.gtad_ranking import RankingOptions, candidate_scores, rank, soft_nms

SEGMENTS = np.array([[0.0, 10.0], [0.0, 10.0], [20.0, 30.0]])
SCORES = np.array([0.9, 0.8, 0.5])
MENDED = RankingOptions(return_last=True, longest=None)


def test_what_overlaps_loses_score() -> None:
    kept, scores = soft_nms(SEGMENTS, SCORES, sigma=0.5, count=9, return_last=True)
    assert kept.tolist() == [0, 2, 1]
    np.testing.assert_allclose(scores, [0.9, 0.5, 0.8 * np.exp(-1 / 0.5)])


def test_the_last_one_that_is_left_is_not_returned_as_published() -> None:
    assert soft_nms(SEGMENTS, SCORES, 0.5, 9)[0].tolist() == [0, 2]
    assert soft_nms(SEGMENTS[:1], SCORES[:1], 0.5, 9)[0].tolist() == []
    assert soft_nms(SEGMENTS[:1], SCORES[:1], 0.5, 9, return_last=True)[0].tolist() == [0]


def test_no_more_than_asked_for_and_nothing_without_a_score() -> None:
    assert soft_nms(SEGMENTS, SCORES, 0.5, 1)[0].tolist() == [0]
    assert soft_nms(SEGMENTS, np.array([0.9, 0.0, -1.0]), 0.5, 9, True)[0].tolist() == [0]
    assert len(soft_nms(np.zeros((0, 2)), np.zeros(0), 0.5, 9, True)[0]) == 0


def test_equal_scores_go_out_in_their_order() -> None:
    segments = np.array([[0.0, 1.0], [5.0, 6.0], [9.0, 10.0]])
    assert soft_nms(segments, np.full(3, 0.5), 0.5, 9, True)[0].tolist() == [0, 1, 2]


def test_scores_and_inputs_stay_as_they_were() -> None:
    scores = SCORES.copy()
    soft_nms(SEGMENTS, scores, 0.5, 9)
    np.testing.assert_array_equal(scores, SCORES)


def test_the_union_of_windows_is_suppressed_once_more() -> None:
    windows = [np.array([[0.0, 10.0], [50.0, 60.0]]), np.array([[0.0, 10.0], [80.0, 90.0]])]
    found = rank(windows, [np.array([0.9, 0.3]), np.array([0.8, 0.2])], 1.0, MENDED)
    assert found.segments[:, 0].tolist() == [0, 50, 80, 0]
    np.testing.assert_allclose(found.scores, [0.9, 0.3, 0.2, 0.8 * np.exp(-1 / 0.46)])
    assert (np.diff(found.scores) <= 0).all()


def test_long_proposals_are_dropped_from_their_length_in_snippets_on() -> None:
    windows = [np.array([[0.0, 12.0], [20.0, 33.0], [40.0, 52.8]])]
    options = RankingOptions(longest=64.0, return_last=True)
    found = rank(windows, [np.array([0.3, 0.9, 0.8])], 0.2, options)  # 64 snippets of 0.2 s: 12.8 s
    assert found.segments.tolist() == [[0.0, 12.0]]


def test_counts_per_window_and_per_video() -> None:
    segments = np.array([[10.0 * k, 10.0 * k + 5] for k in range(6)])
    windows, scores = [segments, segments + 100], [np.linspace(0.9, 0.4, 6), np.linspace(0.8, 0.3, 6)]
    options = RankingOptions(per_window=2, per_video=3, longest=None, return_last=True)
    found = rank(windows, scores, 1.0, options)
    assert found.segments[:, 0].tolist() == [0, 10, 100] or found.segments[:, 0].tolist() == [0, 100, 10]
    assert len(rank([], [], 1.0, options)) == 0


def test_the_score_is_the_product_of_the_maps() -> None:
    maps = np.array([[[0.5, 0.2]], [[0.4, 1.0]]], dtype=np.float32)
    got = candidate_scores(maps, np.array([[True, False]]))
    np.testing.assert_allclose(got, [0.2], rtol=1e-6)
    assert got.dtype == np.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma: must be above 0"),
        ({"per_window": 0}, "per_window: must be at least 1"),
        ({"per_video": 0}, "per_video: must be at least 1"),
        ({"longest": -1.0}, "longest: must be above 0 or null"),
    ],
)
def test_bad_options_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RankingOptions(**changes)  # type: ignore[arg-type]


def test_ranked_proposals_fit_their_scores() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        RankedProposals(np.zeros((2, 2)), np.zeros(3))
