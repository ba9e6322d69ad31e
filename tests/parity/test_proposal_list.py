"""The list of golden/muses: read, written, computed anew. What is sampled from it: test_muses, test_pgcn."""

import json
from pathlib import Path

import numpy as np

from avfusion.data.proposal_list import (
    match,
    proposals_from_list,
    read_proposal_list,
    write_proposal_list,
)
from avfusion.detectors.sampling import listed_candidates


def test_what_is_read_is_written_to_the_byte(golden: Path, tmp_path: Path) -> None:
    source = golden / "muses" / "proposal_list.txt"
    write_proposal_list(tmp_path / "copy.txt", read_proposal_list(source))
    assert (tmp_path / "copy.txt").read_text() == source.read_text()


def test_columns_computed_anew_are_those_of_the_list(golden: Path) -> None:
    """But for the entries that its maker put there by hand: thresholds, empty ones, a class that is not."""
    by_hand = total = 0
    for video in read_proposal_list(golden / "muses" / "proposal_list.txt"):
        columns = match(video.proposals, video.instances, video.classes)
        rounded = [np.round(column, 4) for column in columns]
        theirs = (video.labels, video.iou, video.overlap)
        alike = np.all([np.abs(a - b) < 1.01e-4 for a, b in zip(rounded, theirs, strict=True)], axis=0)
        by_hand, total = by_hand + int((~alike).sum()), total + len(alike)
    assert total > 150 and by_hand < 0.15 * total


def test_lengths_and_relative_times(golden: Path) -> None:
    listed = {video.id: video for video in read_proposal_list(golden / "muses" / "proposal_list.txt")}
    content = json.loads((golden / "muses" / "dataset.json").read_text())
    for video in content["train"]:
        assert listed[video["id"]].frames == video["num_frames"]
    durations = dict.fromkeys(listed, 1e6)
    found = proposals_from_list(golden / "muses" / "proposal_list.txt", durations)
    assert list(found) == content["test_videos"]
    for video in content["test"]:  # as MUSES takes them: cut at the end, none of a class that is not
        whole = listed[video["id"]]
        length = 1e6 if whole.fps is None else whole.frames / whole.fps
        kept = found[video["id"]] / length
        if video["id"] == "video_validation_0000001":
            kept = np.delete(kept, (kept == [60 / 1800, 160 / 1800]).all(axis=1), axis=0)
        np.testing.assert_allclose(np.minimum(kept, 1), video["relative"], rtol=1e-9)


def test_ground_truth(golden: Path) -> None:
    wanted = json.loads((golden / "muses" / "dataset.json").read_text())["all_gt"]
    found = []
    for video in read_proposal_list(golden / "muses" / "proposal_list.txt"):
        kept, _ = listed_candidates(video, 20)
        relative = (np.stack([kept.start, kept.end], axis=1) / video.frames).tolist()
        found += [[video.id, int(k) - 1, *row] for k, row in zip(kept.label, relative, strict=True)]
    assert found == wanted
