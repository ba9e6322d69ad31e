"""Score merging and post-processing against the published eval.py (golden/postproc)."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from avfusion.data.scores import ProposalScores
from avfusion.engine.postprocess import detections_from_scores
from avfusion.fusion.decision import merge_scores, merge_videos

VIDEOS = range(4)
LABELS = [f"class {k}" for k in range(5)]
Scores = dict[str, ProposalScores]


@cache
def arrays(golden: Path) -> dict[str, NDArray[Any]]:
    with np.load(golden / "postproc" / "eval_muses.npz", allow_pickle=False) as file:
        return dict(file)


def stream(golden: Path, name: str) -> Scores:
    """Scores of one stream; its proposals are relative to the length of the video, which is 1 here."""
    data, proposals = arrays(golden), name if name == "pool2" else "rgb"
    return {
        str(v): ProposalScores(
            data[f"in/{proposals}/{v}/relative"],
            *(data[f"in/{name}/{v}/{k}"] for k in ("act", "comp", "reg")),
        )
        for v in VIDEOS
    }


def rows(scores: Scores, **config: Any) -> NDArray[np.float64]:
    """Detections as the golden data has them, in a definite order."""
    found = detections_from_scores(scores, LABELS, dict.fromkeys(scores, 1.0), {"top_k": 120, **config})
    names = np.array([int(name) for name in found.videos])
    return ordered(np.stack([names[found.video], found.label, found.start, found.end, found.score], axis=1))


def ordered(table: NDArray[np.float64]) -> NDArray[np.float64]:
    return table[np.lexsort(table.T[::-1])]


def assert_rows(got: NDArray[np.float64], golden: Path, run: str) -> None:
    np.testing.assert_allclose(got, ordered(arrays(golden)[f"out/{run}"]), rtol=1e-9, atol=1e-12)


def two_streams(golden: Path) -> Scores:
    return merge_videos([stream(golden, "rgb"), stream(golden, "flow")], [1, 1.2])


def test_weighted_merge(golden: Path) -> None:
    for video, merged in two_streams(golden).items():
        for name, key in (("activity", "act"), ("completeness", "comp"), ("regression", "reg")):
            wanted = arrays(golden)[f"merged/{video}/{key}"]
            np.testing.assert_allclose(getattr(merged, name), wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("run", "config"),
    [
        ("two_stream", {}),
        ("two_stream_no_regression", {"regression": False}),
        ("nms02_top40", {"nms_tiou": 0.2, "top_k": 40}),
        ("no_comp", {"completeness": False}),
    ],
)
def test_two_streams(golden: Path, run: str, config: dict[str, Any]) -> None:
    assert_rows(rows(two_streams(golden), **config), golden, run)


@pytest.mark.parametrize(("run", "name"), [("rgb_only", "rgb"), ("pool2_only", "pool2")])
def test_one_stream(golden: Path, run: str, name: str) -> None:
    assert_rows(rows(stream(golden, name)), golden, run)


def test_equal_weights(golden: Path) -> None:
    merged = merge_videos([stream(golden, "rgb"), stream(golden, "flow")])
    assert_rows(rows(merged), golden, "two_stream_equal")


def test_fusion_in_two_steps(golden: Path) -> None:
    merged = merge_videos([two_streams(golden), stream(golden, "audio")], [1, 1])
    assert_rows(rows(merged), golden, "fusion_scores_in_two_steps")


def test_pooled_proposals(golden: Path) -> None:
    pooled = {}
    for video, first in two_streams(golden).items():
        parts = (first, stream(golden, "pool2")[video])
        names = ("proposals", "activity", "completeness", "regression")
        pooled[video] = ProposalScores(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))
    assert_rows(rows(pooled), golden, "fusion_pooled_before_nms")


def test_one_video_alone(golden: Path) -> None:
    members = [stream(golden, name)["0"] for name in ("rgb", "flow")]
    np.testing.assert_array_equal(merge_scores(members, [1, 1.2]).activity, two_streams(golden)["0"].activity)
