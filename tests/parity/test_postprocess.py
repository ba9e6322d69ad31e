"""Score merging and post-processing against the published eval.py (golden/postproc)."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.data.detections import Detections
from avfusion.data.scores import ProposalScores
from avfusion.engine.postprocess import detections_from_scores
from avfusion.evaluation.mean_ap import evaluate
from avfusion.fusion.decision import (
    merge_scores,
    merge_videos,
    pool_detections,
    pool_videos,
    with_classifier,
)

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


def detect(scores: Scores, **config: Any) -> Detections:
    return detections_from_scores(scores, LABELS, dict.fromkeys(scores, 1.0), {"top_k": 120, **config})


def rows(scores: Scores, **config: Any) -> NDArray[np.float64]:
    return table_of(detect(scores, **config))


def table_of(found: Detections) -> NDArray[np.float64]:
    """Detections as the golden data has them, in a definite order."""
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
    pooled = pool_videos([two_streams(golden), stream(golden, "pool2")])
    assert_rows(rows(pooled), golden, "fusion_pooled_before_nms")


def test_pooled_results(golden: Path) -> None:
    pooled = pool_detections([detect(two_streams(golden)), detect(stream(golden, "pool2"))], nms_tiou=0.4)
    assert_rows(table_of(pooled), golden, "fusion_union_of_results_nms04")


def classified(golden: Path) -> Scores:
    """The published code weighs the classifier as the first of the two streams."""
    logits = {
        video: replace(value, activity=value.activity.astype(np.float64))
        for video, value in stream(golden, "cls").items()
    }
    return with_classifier(two_streams(golden), logits, scale=1 / 2.2)


def test_activity_of_a_classifier(golden: Path) -> None:
    assert_rows(rows(classified(golden)), golden, "cls_scores")


def test_published_min_length_keeps_the_short_ones(golden: Path) -> None:
    """20 "seconds" of 6 frames each, as a share of every video."""
    frames = json.loads((golden / "postproc" / "eval_muses.json").read_text())["num_frames"]
    tables = [
        rows({video: value}, max_length=20 * 6 / frames[int(video)])
        for video, value in two_streams(golden).items()
    ]
    assert_rows(np.concatenate(tables), golden, "min_length_20")


RUNS: dict[str, Callable[[Path], Detections]] = {
    "two_stream": lambda g: detect(two_streams(g)),
    "two_stream_no_regression": lambda g: detect(two_streams(g), regression=False),
    "two_stream_equal": lambda g: detect(merge_videos([stream(g, "rgb"), stream(g, "flow")])),
    "rgb_only": lambda g: detect(stream(g, "rgb")),
    "nms02_top40": lambda g: detect(two_streams(g), nms_tiou=0.2, top_k=40),
    "no_comp": lambda g: detect(two_streams(g), completeness=False),
    "cls_scores": lambda g: detect(classified(g)),
    "fusion_pooled_before_nms": lambda g: detect(pool_videos([two_streams(g), stream(g, "pool2")])),
    "fusion_scores_in_two_steps": lambda g: detect(
        merge_videos([two_streams(g), stream(g, "audio")], [1, 1])
    ),
}


@pytest.mark.parametrize("detector", ["muses", "pgcn"])
@pytest.mark.parametrize("run", RUNS)
def test_average_precision_of_the_runs(golden: Path, run: str, detector: str) -> None:
    """Tolerance A; P-GCN's evaluation gives the same tables at more thresholds."""
    facts = json.loads((golden / "postproc" / f"eval_{detector}.json").read_text())
    if run not in facts["runs"]:
        pytest.skip("not a run of P-GCN's evaluation")
    annotations = Annotations(
        {
            str(k): VideoAnnotation(
                "test",
                1.0,
                tuple(Instance(s / ticks, e / ticks, LABELS[c - 1]) for c, s, e in facts["gt"][name]),
            )
            for k, (name, ticks) in enumerate(zip(facts["videos"], facts["num_frames"], strict=True))
        },
        tuple(LABELS),
    )
    wanted = facts["runs"][run]
    thresholds = facts["runs"]["two_stream"]["iou_range"]
    found = evaluate(RUNS[run](golden), annotations, thresholds)
    np.testing.assert_allclose(found.map, wanted["map"], rtol=0, atol=1e-9)
    if "ap" in wanted:
        np.testing.assert_allclose(found.ap, wanted["ap"], rtol=0, atol=1e-9)


def test_one_video_alone(golden: Path) -> None:
    members = [stream(golden, name)["0"] for name in ("rgb", "flow")]
    np.testing.assert_array_equal(merge_scores(members, [1, 1.2]).activity, two_streams(golden)["0"].activity)
