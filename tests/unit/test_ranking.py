"""Pooled proposals, detections from class scores, and average recall of ranked proposals."""

from typing import Any

import numpy as np
import pytest

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.data.proposals import RankedProposals
from avfusion.engine.ranking import detections_from_proposals, pool_proposals
from avfusion.errors import InputError
from avfusion.evaluation.average_recall import as_detections, average_recall

LABELS = ("jump", "run", "sit")
MENDED = {"return_last": True}


def ranked(*rows: tuple[float, float, float]) -> RankedProposals:
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return RankedProposals(table[:, :2], table[:, 2])


ONE = {"a": ranked((0, 2, 0.9), (5, 7, 0.5)), "b": ranked((1, 4, 0.7))}


def label(scores: dict[str, Any], **config: Any) -> list[tuple[str, str, float, float, float]]:
    table = {video: np.array(value) for video, value in scores.items()}
    found = detections_from_proposals(ONE, table, LABELS, {"a": 6.0, "b": 9.0}, config)
    names = [(found.videos[v], found.labels[k]) for v, k in zip(found.video, found.label, strict=True)]
    columns = zip(found.start.tolist(), found.end.tolist(), found.score.tolist(), strict=True)
    return [(*name, *row) for name, row in zip(names, columns, strict=True)]


def test_video_level_scores_name_the_best_classes_of_every_proposal() -> None:
    assert label({"a": [0.1, 0.6, 0.3], "b": [0.2, 0.2, 0.0]}) == [
        ("a", "run", 0.0, 2.0, 0.54),
        ("a", "sit", 0.0, 2.0, 0.27),
        ("a", "run", 5.0, 6.0, 0.3),
        ("a", "sit", 5.0, 6.0, 0.15),
        ("b", "run", 1.0, 4.0, 0.14),
        ("b", "jump", 1.0, 4.0, 0.14),
    ]


def test_scores_of_every_proposal() -> None:
    scores = {"a": [[1, 0, 0], [0, 0, 1]], "b": [[0, 1, 0]]}
    found = label(scores, classes=1)
    assert [row[:2] for row in found] == [("a", "jump"), ("a", "sit"), ("b", "run")]
    assert len(label(scores, classes=9)) == 9


def test_numbers_of_proposals_and_decimals() -> None:
    thirds = {"a": [1 / 3, 0, 0], "b": [1 / 3, 0, 0]}
    assert len(label(thirds, proposals=1, classes=1)) == 2
    assert label(thirds, classes=1, score_decimals=None)[0][4] == 0.9 / 3
    assert label(thirds, classes=1, score_decimals=2)[1][4] == 0.17
    fine = {"a": ranked((0.126, 2.04, 0.9))}
    found = detections_from_proposals(fine, {"a": np.ones(3)}, LABELS, {"a": 9.0}, {"time_decimals": 2})
    assert (found.start[0], found.end[0]) == (0.13, 2.04)


def test_detections_of_nothing() -> None:
    found = detections_from_proposals({"a": ranked()}, {"a": np.ones(3)}, LABELS, {"a": 9.0})
    assert len(found) == 0 and found.videos == ("a",)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"a": [1, 0, 0]}, "class scores: b: there are none of this video"),
        ({"a": [1, 0], "b": [1, 0]}, "a: 2 classes are scored, 3 are named"),
        ({"a": [[1, 0, 0]], "b": [1, 0, 0]}, "a: 1 rows do not fit 2 proposals"),
    ],
)
def test_class_scores_that_do_not_fit(scores: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        label(scores)


def test_durations_and_options_are_checked() -> None:
    with pytest.raises(InputError, match="durations: a: the length of the video"):
        detections_from_proposals(ONE, {"a": np.ones(3)}, LABELS, {})
    with pytest.raises(InputError, match="unknown option 'topk'"):
        label({}, topk=2)
    with pytest.raises(InputError, match="classes: must be at least 1"):
        label({}, classes=0)
    with pytest.raises(InputError, match="time_decimals: must be at least 0 or null"):
        label({}, time_decimals=-1)


def test_pooled_proposals_suppress_each_other() -> None:
    other = {"a": ranked((0, 2, 0.8), (10, 12, 0.6)), "c": ranked((0, 1, 0.2))}
    pooled, classes = pool_proposals([ONE, other], config=MENDED)
    assert list(pooled) == ["a", "b", "c"] and classes == {}
    assert pooled["a"].segments[:, 0].tolist() == [0, 10, 5, 0]
    np.testing.assert_allclose(pooled["a"].scores, [0.9, 0.6, 0.5, 0.8 * np.exp(-1 / 0.46)])
    assert len(pool_proposals([ONE, other])[0]["c"]) == 0  # published: the last one is never returned


def test_class_scores_go_with_the_proposals() -> None:
    other = {"a": ranked((10, 12, 0.6))}
    mine = {"a": np.array([[1.0, 0, 0], [0, 1, 0]]), "b": np.array([[0, 0, 1.0]])}
    pooled, classes = pool_proposals([ONE, other], [mine, {"a": np.array([0.0, 0.5, 0.5])}], MENDED)
    assert pooled["a"].segments[:, 0].tolist() == [0, 10, 5]
    assert classes["a"].tolist() == [[1, 0, 0], [0, 0.5, 0.5], [0, 1, 0]]
    assert classes["b"].tolist() == [[0, 0, 1]]


def test_what_cannot_be_pooled_is_named() -> None:
    with pytest.raises(InputError, match="0 members"):
        pool_proposals([])
    with pytest.raises(InputError, match="2 members with 1 sets of class scores"):
        pool_proposals([ONE, ONE], [{}])
    sets = [{"a": np.ones(3), "b": np.ones(3)}, {"a": np.ones(2), "b": np.ones(2)}]
    with pytest.raises(InputError, match="class scores: a: the members score 3 and 2 classes"):
        pool_proposals([ONE, ONE], sets)


def test_average_recall_of_ranked_proposals() -> None:
    videos = {
        "a": VideoAnnotation("test", 20.0, (Instance(0, 2, "jump"), Instance(5, 7, "run"))),
        "b": VideoAnnotation("test", 20.0, (Instance(8, 9, "sit"),)),
    }
    found = {"a": ONE["a"], "b": ranked((1, 4, 0.9), (8, 9, 0.1))}
    recall = average_recall(as_detections(found), Annotations(videos, LABELS), max_average=2)
    assert recall.average[-1] == 1.0
    half = average_recall(as_detections(found), Annotations(videos, LABELS), max_average=1)
    assert half.average[-1] == pytest.approx(1 / 3)  # the best of each: only that of "a" hits
    assert len(as_detections({})) == 0
