"""Proposals and proposal scores: windows, and what is read is what was written."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from avfusion.data.proposals import (
    RankedProposals,
    read_proposals,
    read_ranked,
    sliding_windows,
    write_proposals,
)
from avfusion.data.scores import ProposalScores, read_scores, write_scores
from avfusion.errors import InputError


def test_windows_cover_the_video_with_the_overlap_asked_for() -> None:
    windows = sliding_windows(10.0, [2.0, 4.0], overlap=0.75)
    lengths = windows[:, 1] - windows[:, 0]
    assert np.unique(lengths.round(9)).tolist() == [2.0, 4.0]
    for length in (2.0, 4.0):
        some = windows[np.isclose(lengths, length)]
        assert (some[0, 0], some[-1, 1]) == (0.0, pytest.approx(10.0))
        assert (np.diff(some[:, 0]) <= length * 0.25 + 1e-9).all()
    assert len(windows) == 17 + 7


def test_windows_longer_than_the_video_are_the_video_once() -> None:
    assert sliding_windows(3.0, [5.0, 9.0]).tolist() == [[0.0, 3.0]]
    assert sliding_windows(4.0, [4.0]).tolist() == [[0.0, 4.0]]
    assert sliding_windows(4.0, []).shape == (0, 2)


@pytest.mark.parametrize(
    ("duration", "lengths", "overlap"), [(0, [1], 0.5), (1, [0], 0.5), (1, [1], 1), (1, [1], -0.1)]
)
def test_senseless_windows(duration: float, lengths: list[float], overlap: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        sliding_windows(duration, lengths, overlap)


def test_proposals_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "proposals.h5"
    proposals = {"b": np.array([[0.0, 1 / 3], [1.0, 2.0]]), "a": np.zeros((0, 2))}
    write_proposals(path, proposals, "windows")
    again = read_proposals(path)
    assert again.keys() == proposals.keys()
    for video, segments in proposals.items():
        np.testing.assert_array_equal(again[video], segments)
    with h5py.File(path) as file:
        assert file.attrs["source"] == "windows"


@pytest.mark.parametrize("segments", [[[1.0, 1.0]], [[2.0, 1.0]], [[0.0, np.nan]]])
def test_bad_segments_are_found_when_reading(tmp_path: Path, segments: list[list[float]]) -> None:
    path = tmp_path / "proposals.h5"
    write_proposals(path, {"v": np.array(segments)}, "test")
    with pytest.raises(InputError, match=rf"{path}: v: holds a segment"):
        read_proposals(path)


def test_files_that_hold_no_proposals(tmp_path: Path) -> None:
    path = tmp_path / "proposals.h5"
    with pytest.raises(InputError, match="no such file"):
        read_proposals(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="cannot be read as HDF5 proposals"):
        read_proposals(path)
    with h5py.File(path, "w") as file:
        file["v"] = np.zeros((3, 4))
    with pytest.raises(InputError, match=r"v: shape \(3, 4\)"):
        read_proposals(path)
    with h5py.File(path, "w") as file:
        file.create_group("v/w")
    with pytest.raises(InputError, match="cannot be read as HDF5 proposals"):
        read_proposals(path)
    with pytest.raises(InputError, match="slash"):
        write_proposals(path, {"a/b": np.zeros((0, 2))}, "test")


def make_scores(proposals: int = 5, classes: int = 3) -> ProposalScores:
    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    return ProposalScores(
        np.sort(rng.uniform(0, 9, (proposals, 2))),
        draw((proposals, classes + 1)).astype(np.float32),
        draw((proposals, classes)).astype(np.float32),
        draw((proposals, classes, 2)).astype(np.float32),
    )


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "scores.h5"
    scores = {"b": make_scores(), "a": make_scores(0)}
    write_scores(path, scores, ["x", "y", "z"])
    again, labels = read_scores(path)
    assert labels == ["x", "y", "z"]
    assert again.keys() == scores.keys()
    for name in ("proposals", "activity", "completeness", "regression"):
        np.testing.assert_array_equal(getattr(again["b"], name), getattr(scores["b"], name))
        assert getattr(again["a"], name).dtype == getattr(scores["a"], name).dtype


def test_scores_of_different_shapes_do_not_go_together(tmp_path: Path) -> None:
    good = make_scores()
    with pytest.raises(
        ValueError, match=r"activity has shape \(5, 3\); 5 proposals and 3 classes need \(5, 4\)"
    ):
        ProposalScores(good.proposals, good.activity[:, 1:], good.completeness, good.regression)
    path = tmp_path / "scores.h5"
    write_scores(path, {"v": good}, ["x", "y"])
    with pytest.raises(InputError, match="v: 3 classes are scored, but 2 are named"):
        read_scores(path)
    write_proposals(path, {"v": good.proposals}, "test")
    with pytest.raises(InputError, match="is no HDF5 file of proposal scores"):
        read_scores(path)


def test_ranked_proposals_come_back_with_their_scores(tmp_path: Path) -> None:
    ranked = RankedProposals(np.array([[0.0, 2.0], [1.0, 3.0]]), np.array([0.9, 0.2]))
    write_proposals(tmp_path / "p.h5", {"a": ranked}, source="test")
    back = read_ranked(tmp_path / "p.h5")["a"]
    assert_array_equal(back.segments, ranked.segments)
    assert_array_equal(back.scores, ranked.scores)
    assert_array_equal(read_proposals(tmp_path / "p.h5", best=1)["a"], [[0.0, 2.0]])


def test_windows_have_no_scores_to_rank_by(tmp_path: Path) -> None:
    write_proposals(tmp_path / "p.h5", {"a": np.array([[0.0, 2.0]])}, source="test")
    with pytest.raises(InputError, match=r"p\.h5: a: its proposals have no scores"):
        read_ranked(tmp_path / "p.h5")
