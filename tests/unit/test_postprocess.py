"""From scores to detections: the order of the steps, ties, and bad input."""

from typing import Any

import numpy as np
import pytest

from avfusion.data.scores import ProposalScores
from avfusion.engine.postprocess import class_scores, detections_from_scores, refine
from avfusion.errors import InputError

LABELS = ["a", "b"]


def scored(proposals: list[list[float]], **parts: Any) -> ProposalScores:
    """Scores of proposals for two classes; what is not given is zero."""
    count = len(proposals)
    zeros = {"activity": (count, 3), "completeness": (count, 2), "regression": (count, 2, 2)}
    arrays = {name: np.asarray(parts.get(name, np.zeros(shape)), np.float32) for name, shape in zeros.items()}
    return ProposalScores(np.array(proposals, dtype=float).reshape(-1, 2), **arrays)


def test_scores_are_probability_without_background_times_exp_completeness() -> None:
    scores = scored([[0, 1]], activity=[[1.0, 2.0, 0.5]], completeness=[[0.0, 1.0]])
    odds = np.exp([1.0, 2.0, 0.5])
    np.testing.assert_allclose(class_scores(scores)[0], odds[1:] / odds.sum() * [1, np.e], rtol=1e-6)
    np.testing.assert_allclose(class_scores(scores, completeness=False)[0], odds[1:] / odds.sum(), rtol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    scores = scored([[0, 1]], activity=[[0.0, 1000.0, 999.0]])
    np.testing.assert_allclose(class_scores(scores)[0], [1 / (1 + np.exp(-1)), 1 / (1 + np.e)], rtol=1e-5)


def test_suppression_sees_proposals_and_regression_comes_after() -> None:
    shifts = np.zeros((3, 2, 2))
    shifts[0, 0] = [1.0, np.log(2)]  # [0, 10] becomes about [5, 25], where it overlaps the third; both stay
    activity = [[0, 3, -9], [0, 2, -9], [0, 1, -9]]
    scores = scored([[0, 10], [1, 10], [15, 25]], activity=activity, regression=shifts)
    found = detections_from_scores({"v": scores}, LABELS, {"v": 20.0}, {"top_k": 3})
    np.testing.assert_allclose([found.start, found.end], [[5.0, 15.0], [20.0, 20.0]], rtol=1e-6)
    plain = detections_from_scores({"v": scores}, LABELS, {}, {"top_k": 3, "regression": False})
    np.testing.assert_array_equal([plain.start, plain.end], [[0.0, 15.0], [10.0, 25.0]])


def test_classes_and_videos_do_not_suppress_each_other() -> None:
    scores = scored([[0, 10], [0, 10]], activity=[[0, 3, 1], [0, 1, 2]])
    found = detections_from_scores({"v": scores, "w": scores}, LABELS, {"v": 20.0, "w": 20.0})
    assert found.video.tolist() == [0, 0, 1, 1]
    assert found.label.tolist() == [0, 1, 0, 1]
    assert found.videos == ("v", "w") and found.labels == ("a", "b")


def test_top_k_counts_pairs_of_proposal_and_class_and_ties_go_to_the_earlier() -> None:
    scores = scored([[0, 1], [5, 6], [9, 10]])
    found = detections_from_scores({"v": scores}, LABELS, {"v": 20.0}, {"top_k": 3})
    assert sorted(zip(found.start, found.label, strict=True)) == [(0.0, 0), (0.0, 1), (5.0, 0)]


def test_detections_of_a_video_are_sorted_by_score() -> None:
    rng = np.random.RandomState(0)
    start = rng.uniform(0, 50, 40)
    scores = scored(np.stack([start, start + 5], 1).tolist(), activity=rng.standard_normal((40, 3)))
    found = detections_from_scores({"v": scores, "w": scores}, LABELS, {"v": 60.0, "w": 60.0})
    for video in (0, 1):
        assert (np.diff(found.score[found.video == video]) <= 0).all()


def test_no_videos_no_proposals() -> None:
    assert len(detections_from_scores({}, LABELS, {})) == 0
    found = detections_from_scores({"v": scored([])}, LABELS, {"v": 5.0})
    assert len(found) == 0 and found.videos == ("v",)


def test_refine() -> None:
    refined = refine(np.array([[10.0, 20.0]]), np.array([[0.5, np.log(0.5)]]))
    np.testing.assert_allclose(refined, [[17.5, 22.5]])


@pytest.mark.parametrize(
    ("scores", "durations", "config", "message"),
    [
        (scored([[0, 1]]), {"v": 5.0}, {"topk": 3}, "post-processing: unknown option 'topk'"),
        (scored([[0, 1]]), {"v": 5.0}, {"top_k": 0}, "top_k: must be at least 1"),
        (scored([[0, 1]]), {"v": 5.0}, {"nms_tiou": 2}, r"nms_tiou: must be in \[0, 1\]"),
        (scored([[0, 1]]), {}, {}, "durations: v: the length of the video"),
        (scored([[0, 1]]), {"v": 0.0}, {}, "durations: v: the length of the video"),
        (
            scored([[0, 1]], completeness=[[0, np.nan]]),
            {"v": 5.0},
            {},
            "scores: v: completeness holds a value",
        ),
    ],
)
def test_bad_input_is_named(scores: ProposalScores, durations: Any, config: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detections_from_scores({"v": scores}, LABELS, durations, config)


def test_scores_of_another_number_of_classes() -> None:
    with pytest.raises(InputError, match="scores: v: 2 classes are scored, but 3 are named"):
        detections_from_scores({"v": scored([[0, 1]])}, ["a", "b", "c"], {"v": 5.0})


def test_lengths_of_proposals() -> None:
    scores = scored([[0, 1], [2, 5], [6, 16]])
    plain = {"regression": False, "nms_tiou": 1.0}
    for limits, starts in (
        ({}, [0, 2, 6]),
        ({"min_length": 1.0}, [0, 2, 6]),
        ({"min_length": 2.0}, [2, 6]),
        ({"max_length": 3.0}, [0, 2]),
        ({"min_length": 2.0, "max_length": 5.0}, [2]),
    ):
        found = detections_from_scores({"v": scores}, LABELS, {}, {**plain, **limits})
        assert sorted(set(found.start)) == starts
    # They count after the top k, as published: too short a proposal takes its place and is then dropped.
    found = detections_from_scores({"v": scores}, LABELS, {}, {**plain, "min_length": 2.0, "top_k": 2})
    assert len(found) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_length": -1.0}, "min_length: must not be negative, not -1.0"),
        ({"min_length": 2.0, "max_length": 2.0}, r"max_length: must be above min_length \(2.0\), not 2.0"),
    ],
)
def test_impossible_lengths(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        detections_from_scores({}, LABELS, {}, options)
