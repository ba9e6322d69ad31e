"""Decision fusion: weights, and members that do not belong together."""

import logging
from pathlib import Path

import numpy as np
import pytest

from avfusion.data.scores import ProposalScores, read_scores, write_scores
from avfusion.errors import InputError
from avfusion.fusion.decision import merge_score_files, merge_scores, merge_videos


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
