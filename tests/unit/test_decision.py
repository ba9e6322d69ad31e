"""Decision fusion: weights, and members that do not belong together."""

import logging
from pathlib import Path

import numpy as np
import pytest

from avfusion.data.detections import Detections, read_detections, write_detections
from avfusion.data.scores import ProposalScores, read_scores, write_scores
from avfusion.errors import InputError
from avfusion.fusion.decision import (
    merge_score_files,
    merge_scores,
    merge_videos,
    pool_detection_files,
    pool_detections,
    pool_score_files,
    pool_videos,
    with_classifier,
)


def constant(value: float, proposals: int = 2, classes: int = 3, start: float = 0.0) -> ProposalScores:
    segments = np.stack([np.arange(proposals) + start, np.arange(proposals) + start + 1.5], 1)
    shapes = ((proposals, classes + 1), (proposals, classes), (proposals, classes, 2))
    return ProposalScores(segments, *(np.full(shape, value, dtype=np.float32) for shape in shapes))


def test_weighted_mean() -> None:
    merged = merge_scores([constant(1.0), constant(4.0)], [1, 2])
    assert merged.activity.dtype == np.float64
    for part in (merged.activity, merged.completeness, merged.regression):
        np.testing.assert_allclose(part, 3.0)
    np.testing.assert_array_equal(merged.proposals, constant(0.0).proposals)


def test_equal_weights_keep_the_type() -> None:
    merged = merge_scores([constant(1.0), constant(2.0)])
    assert merged.activity.dtype == np.float32 and (merged.activity == 1.5).all()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (constant(1.0, proposals=3), "video_7: member 1 has 2 proposals, member 2 has 3"),
        (
            constant(1.0, start=0.25),
            r"video_7: proposal 0 is \[0, 1.5\] in member 1 and \[0.25, 1.75\] in member 2",
        ),
        (constant(1.0, classes=4), "video_7: member 1 has 3 classes, member 2 4"),
    ],
)
def test_members_with_other_proposals_are_refused(second: ProposalScores, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge_videos([{"video_7": constant(1.0)}, {"video_7": second}], [1, 1.2])


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -2], [1, np.nan], [[1, 1]]])
def test_weights_that_do_not_fit(weights: list[float]) -> None:
    with pytest.raises(InputError, match="weights: must be 2 numbers above 0"):
        merge_scores([constant(1.0), constant(2.0)], weights)


def test_nothing_to_merge() -> None:
    with pytest.raises(InputError, match="nothing to merge"):
        merge_scores([])


def test_videos_that_one_member_lacks_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "avfusion"):
        merged = merge_videos([{"a": constant(1.0), "b": constant(1.0)}, {"b": constant(3.0)}])
    assert list(merged) == ["b"] and (merged["b"].activity == 2.0).all()
    assert "1 of 2 videos are not in all members" in caplog.text
    with pytest.raises(InputError, match="no video in common"):
        merge_videos([{"a": constant(1.0)}, {"b": constant(3.0)}])


def test_files(tmp_path: Path) -> None:
    paths = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for path, value in zip(paths, (1.0, 4.0), strict=True):
        write_scores(path, {"v": constant(value)}, ["x", "y", "z"])
    merge_score_files(paths, [1, 2], tmp_path / "merged.h5")
    scores, labels = read_scores(tmp_path / "merged.h5")
    assert labels == ["x", "y", "z"] and (scores["v"].activity == 3.0).all()
    write_scores(paths[1], {"v": constant(4.0)}, ["x", "z", "y"])
    with pytest.raises(InputError, match=r"two\.h5: labels: has other classes than"):
        merge_score_files(paths, None, tmp_path / "other.h5")
    assert not (tmp_path / "other.h5").exists()


def test_pooled_members_may_have_other_proposals_and_videos(caplog: pytest.LogCaptureFixture) -> None:
    one, two = {"a": constant(1.0), "b": constant(1.0)}, {"b": constant(2.0, proposals=3), "c": constant(2.0)}
    with caplog.at_level(logging.WARNING, "avfusion"):
        pooled = pool_videos([one, two])
    assert "2 of 3 videos are not in all members and are pooled from fewer" in caplog.text
    assert list(pooled) == ["a", "b", "c"]
    assert pooled["b"].activity[:, 0].tolist() == [1, 1, 2, 2, 2]
    np.testing.assert_array_equal(pooled["b"].proposals[2:], two["b"].proposals)
    assert len(pooled["c"].proposals) == 2


def test_pooled_members_need_the_same_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="b: member 1 has 3 classes, member 2 4"):
        pool_videos([{"b": constant(1.0)}, {"b": constant(1.0, classes=4)}])
    with pytest.raises(InputError, match="nothing to merge"):
        pool_videos([])
    paths = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for path, count in zip(paths, (2, 3), strict=True):
        write_scores(path, {"v": constant(float(count), proposals=count)}, ["x", "y", "z"])
    pool_score_files(paths, tmp_path / "pooled.h5")
    scores, labels = read_scores(tmp_path / "pooled.h5")
    assert labels == ["x", "y", "z"] and scores["v"].completeness[:, 0].tolist() == [2, 2, 3, 3, 3]
    write_scores(paths[1], {"v": constant(4.0)}, ["x", "z", "y"])
    with pytest.raises(InputError, match=r"two\.h5: labels: has other classes than"):
        pool_score_files(paths, tmp_path / "other.h5")


def detections(videos: list[str], labels: list[str], rows: list[tuple[int, int, float, float]]) -> Detections:
    """Rows of video, label, start and score; every segment is 2 s long."""
    video, label, start, score = (np.array(column) for column in zip(*rows, strict=True))
    return Detections(tuple(videos), tuple(labels), video, label, start, start + 2.0, score)


def test_pooled_results_are_suppressed_by_video_and_class(tmp_path: Path) -> None:
    one = detections(["a", "b"], ["x", "y"], [(0, 0, 0.0, 0.9), (0, 0, 5.0, 0.2), (1, 1, 0.0, 0.7)])
    two = detections(["b", "c"], ["y", "x"], [(0, 0, 0.1, 0.8), (0, 1, 0.1, 0.6), (1, 0, 3.0, 0.5)])
    pooled = pool_detections([one, two], nms_tiou=0.5)
    assert pooled.videos == ("a", "b", "c") and pooled.labels == ("x", "y")
    found = [
        (pooled.videos[v], pooled.labels[k], s)
        for v, k, s in zip(pooled.video, pooled.label, pooled.score, strict=True)
    ]
    # Of the two y in b the better one stays; the x at the same time is another class.
    assert found == [("a", "x", 0.9), ("a", "x", 0.2), ("b", "y", 0.8), ("b", "x", 0.6), ("c", "y", 0.5)]
    for name, value in (("one", one), ("two", two)):
        write_detections(tmp_path / f"{name}.json", value)
    pool_detection_files([tmp_path / "one.json", tmp_path / "two.json"], tmp_path / "out.json", 0.5)
    assert sorted(read_detections(tmp_path / "out.json").score) == sorted(pooled.score)


def test_a_classifier_must_score_the_same_proposals() -> None:
    chosen = with_classifier({"v": constant(1.0)}, {"v": constant(5.0), "w": constant(5.0)})
    assert list(chosen) == ["v"]
    assert (chosen["v"].activity == 5).all() and (chosen["v"].completeness == 1).all()
    scaled = with_classifier({"v": constant(1.0)}, {"v": constant(5.0)}, scale=0.5)
    assert (scaled["v"].activity == 2.5).all()
    with pytest.raises(InputError, match="classifier: v: has no scores of this video"):
        with_classifier({"v": constant(1.0)}, {})
    with pytest.raises(InputError, match="v: member 1 has 2 proposals, member 2 has 3"):
        with_classifier({"v": constant(1.0)}, {"v": constant(1.0, proposals=3)})
