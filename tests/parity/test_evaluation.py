"""Evaluation against the published evaluators' numbers (golden/evaluation; tolerance A: 1e-9)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avfusion.cli.main import main
from avfusion.data.annotations import Annotations, Instance, VideoAnnotation, read_annotations
from avfusion.data.detections import Detections, read_detections
from avfusion.evaluation.average_recall import average_recall
from avfusion.evaluation.mean_ap import evaluate

TOLERANCE = 1e-9
LATE = "reaches past the end of the video"


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "evaluation" / "thumos14_tal_hmo.json").read_text())


@pytest.fixture(scope="module")
def thumos14(shared: Path) -> Annotations:
    return read_annotations(shared / "thumos14" / "annotations")


@pytest.fixture(scope="module")
def released(shared: Path) -> Detections:
    return read_detections(shared / "thumos14" / "tal-hmo-detections.csv.gz")


def reorder(detections: Detections, rows: np.ndarray) -> Detections:
    columns = {name: getattr(detections, name)[rows] for name in ("video", "label", "start", "end", "score")}
    return replace(detections, **columns)


def restrict(annotations: Annotations, videos: set[str]) -> Annotations:
    return replace(annotations, videos={v: a for v, a in annotations.videos.items() if v in videos})


def test_the_tables_hold_what_the_literature_counts(thumos14: Annotations) -> None:
    test, validation = thumos14.subset("test"), thumos14.subset("val")
    assert (test.instances(), validation.instances()) == (3358, 3007)
    assert len(test.labels) == 20
    assert len(test.videos) == 213
    assert sum(bool(video.instances) for video in test.videos.values()) == 212
    assert test.videos["video_test_0001292"] == VideoAnnotation("test", None, ())  # only 'Ambiguous' rows
    assert test.videos["video_test_0000004"].duration == pytest.approx(1012 / 30)


def test_released_detections_on_all_videos(
    released: Detections, thumos14: Annotations, reference: dict[str, Any]
) -> None:
    golden = reference["all_videos"]
    evaluation = evaluate(released, thumos14.subset("test"), golden["iou"])
    np.testing.assert_allclose(evaluation.map, golden["mAP"], rtol=0, atol=TOLERANCE)
    assert evaluation.average == pytest.approx(golden["mean_of_mAP"], abs=TOLERANCE)
    protocol = evaluation.protocol
    assert protocol.instances == reference["instances_all"]
    assert protocol.videos_annotated == reference["videos_with_instances"]
    assert protocol.videos_with_detections == reference["videos_with_detections"]
    assert protocol.detections == reference["detections"] == len(released)
    assert (protocol.subset, protocol.classes, protocol.videos) == ("test", 20, 213)


def test_released_detections_with_later_rows_first(
    released: Detections, thumos14: Annotations, reference: dict[str, Any]
) -> None:
    golden = reference["later_row_first"]
    backwards = reorder(released, np.arange(len(released))[::-1])
    evaluation = evaluate(backwards, thumos14.subset("test"), golden["iou"])
    np.testing.assert_allclose(evaluation.map, golden["mAP"], rtol=0, atol=TOLERANCE)


def test_released_detections_on_videos_with_detections_only(
    released: Detections, thumos14: Annotations, reference: dict[str, Any]
) -> None:
    golden = reference["videos_with_detections_only"]
    annotations = restrict(thumos14.subset("test"), set(released.videos))
    evaluation = evaluate(released, annotations, golden["iou"])
    np.testing.assert_allclose(evaluation.map, golden["mAP"], rtol=0, atol=TOLERANCE)
    assert evaluation.protocol.instances == reference["instances_in_videos_with_detections"]


def test_released_detections_in_the_activitynet_protocol(
    released: Detections, thumos14: Annotations, reference: dict[str, Any]
) -> None:
    tiou = [round(0.5 + 0.05 * k, 2) for k in range(10)]
    average = evaluate(released, thumos14.subset("test"), tiou).average
    assert average == pytest.approx(reference["activitynet_protocol"]["average_mAP"], abs=TOLERANCE)


def test_average_recall(released: Detections, thumos14: Annotations, reference: dict[str, Any]) -> None:
    golden = reference["ar_an_100"]
    curve = average_recall(released, thumos14.subset("test"), golden["iou"], golden["max_avg_nr_proposals"])
    np.testing.assert_allclose(curve.recall, golden["recall"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(curve.average, golden["average_recall"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(curve.proposals, golden["proposals_per_video"], rtol=0, atol=TOLERANCE)
    assert 100 * curve.area == pytest.approx(golden["area_percent"], abs=100 * TOLERANCE)


@pytest.mark.parametrize("order", ["earlier_row_first", "later_row_first"])
def test_many_ties(golden: Path, released: Detections, thumos14: Annotations, order: str) -> None:
    perturbed = np.load(golden / "evaluation" / "perturbed.npz", allow_pickle=False)
    # 244 of these segments end before they start; the reference counts them as false positives
    chosen = reorder(released, perturbed["row"])
    detections = replace(
        chosen,
        start=chosen.start + perturbed["start_shift"],
        end=chosen.end + perturbed["end_shift"],
        score=perturbed["score"],
    )
    if order == "later_row_first":
        detections = reorder(detections, np.arange(len(detections))[::-1])
    annotations = restrict(thumos14.subset("test"), set(perturbed["videos"].tolist()))
    evaluation = evaluate(detections, annotations, perturbed["iou"].tolist())
    names = sorted(thumos14.labels)
    rows = [evaluation.labels.index(names[c]) for c in perturbed["classes"]]
    np.testing.assert_allclose(evaluation.ap[rows], perturbed[f"ap_{order}"], rtol=0, atol=TOLERANCE)


EDGE_CASES = json.loads((Path(__file__).parent.parent / "data" / "evaluation_edge_cases.json").read_text())


@pytest.mark.parametrize("case", list(EDGE_CASES.values()), ids=list(EDGE_CASES))
def test_edge_cases(case: dict[str, Any]) -> None:
    instances: dict[str, list[Instance]] = {}
    for video, start, end in case["instances"]:
        instances.setdefault(video, []).append(Instance(start, end, "x"))
    annotations = Annotations(
        {v: VideoAnnotation("test", None, tuple(i)) for v, i in instances.items()}, ("x",)
    )
    rows = case["predictions"]
    videos = tuple(sorted({row[0] for row in rows}))
    start, end, score = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 3).T
    video = np.array([videos.index(row[0]) for row in rows], dtype=np.int64)
    detections = Detections(videos, ("x",), video, np.zeros(len(rows), dtype=np.int64), start, end, score)
    evaluation = evaluate(detections, annotations, case["iou"])
    np.testing.assert_allclose(evaluation.ap[0], case["ap"], rtol=0, atol=TOLERANCE)


def test_the_copied_edge_cases_are_the_golden_ones(golden: Path) -> None:
    assert json.loads((golden / "evaluation" / "edge_cases.json").read_text()) == EDGE_CASES


def test_the_command_prints_the_published_figures(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "thumos14"
    out = tmp_path / "evaluation.json"
    files = [str(folder / "tal-hmo-detections.csv.gz"), "--annotations", str(folder / "annotations")]
    status = main(["evaluate", *files, "--subset", "test", "--per-class", "--json", str(out)])
    printed = capsys.readouterr()
    assert status == 0
    assert "68.88 63.72 56.90 46.15 29.90" in printed.out
    assert (
        "subset test, 212 annotated videos (210 with detections), 3358 instances of 20 classes" in printed.out
    )
    assert "VolleyballSpiking" in printed.out
    assert printed.err.count("\n") == 1
    assert LATE in printed.err
    written = json.loads(out.read_text())
    assert [f"{100 * value:.2f}" for value in written["mAP"]] == ["68.88", "63.72", "56.90", "46.15", "29.90"]
    assert written["tiou"] == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert sum(row["instances"] for row in written["classes"].values()) == 3358
