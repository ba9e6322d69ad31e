"""Mean average precision against a plain loop over the same definition, and its counts and complaints."""

import json
from pathlib import Path

import numpy as np
import pytest

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.data.detections import Detections, read_detections
from avfusion.errors import InputError
from avfusion.evaluation.average_recall import average_recall
from avfusion.evaluation.mean_ap import average_precision, evaluate, segment_iou
from avfusion.files import write_json

TIOU = (0.1, 0.3, 0.5, 0.7)
LABELS = ("x", "y", "z")


def make_annotations(rows: list[tuple[str, str, float, float]], videos: int = 5) -> Annotations:
    instances: dict[str, list[Instance]] = {f"v{k}": [] for k in range(videos)}
    for video, label, start, end in rows:
        instances[video].append(Instance(start, end, label))
    return Annotations({v: VideoAnnotation("test", None, tuple(i)) for v, i in instances.items()}, LABELS)


def make_detections(rows: list[tuple[str, str, float, float, float]]) -> Detections:
    videos, labels = tuple(dict.fromkeys(r[0] for r in rows)), tuple(dict.fromkeys(r[1] for r in rows))
    start, end, score = np.array([r[2:] for r in rows], dtype=np.float64).reshape(-1, 3).T
    return Detections(
        videos,
        labels,
        np.array([videos.index(r[0]) for r in rows], dtype=np.int64),
        np.array([labels.index(r[1]) for r in rows], dtype=np.int64),
        start,
        end,
        score,
    )


def plain_average_precision(
    detections: list[tuple[str, str, float, float, float]],
    annotations: list[tuple[str, str, float, float]],
    label: str,
    threshold: float,
) -> float:
    """The definition, one detection and one instance at a time."""
    truth = [r for r in annotations if r[1] == label]
    ranked = sorted((r for r in detections if r[1] == label), key=lambda r: -r[4])
    free = [True] * len(truth)
    precisions, hits = [], 0
    for rank, (video, _, start, end, _) in enumerate(ranked, start=1):
        options = []
        for k, (other, _, low, high) in enumerate(truth):
            inter = max(0.0, min(end, high) - max(start, low))
            union = (high - low) + (end - start) - inter
            if other == video and union > 0 and inter / union >= threshold and free[k]:
                options.append((inter / union, k))
        if options:
            free[max(options)[1]] = False
            hits += 1
        precisions.append((hits / rank, bool(options)))
    envelope, total = 0.0, 0.0
    for precision, hit in reversed(precisions):
        envelope = max(envelope, precision)
        total += envelope * hit
    return total / len(truth)


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_a_plain_loop(seed: int) -> None:
    """Few videos, long segments, coarse times and scores: full of ties and of instances that overlap."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> list[tuple[str, str, float, float]]:
        video, label = rng.integers(0, 3, count), rng.choice(LABELS[:2], count)
        start, length = rng.integers(0, 12, count), rng.integers(1, 8, count)
        rows = zip(video, label, start, length, strict=True)
        return [(f"v{v}", str(c), float(s), float(s + d)) for v, c, s, d in rows]

    annotations, segments = draw(30), draw(120)
    detections = [(*row, float(score)) for row, score in zip(segments, rng.integers(0, 9, 120), strict=True)]
    evaluation = evaluate(make_detections(detections), make_annotations(annotations), TIOU)
    for c, label in enumerate(LABELS[:2]):
        expected = [plain_average_precision(detections, annotations, label, t) for t in TIOU]
        np.testing.assert_allclose(evaluation.ap[c], expected, rtol=0, atol=1e-12)
    assert 0 < evaluation.map[0] < 1


def test_matching_is_not_done_within_a_class_of_another_video() -> None:
    annotations = make_annotations([("v0", "x", 0, 10), ("v1", "y", 0, 10)])
    detections = make_detections([("v1", "x", 0, 10, 1.0), ("v0", "y", 0, 10, 1.0)])
    assert evaluate(detections, annotations, [0.5]).ap[:2].tolist() == [[0.0], [0.0]]


def test_earlier_rows_come_first() -> None:
    annotations = make_annotations([("v0", "x", 0, 10)])
    rows = [("v0", "x", 0.0, 10.0, 0.5), ("v0", "x", 50.0, 60.0, 0.5)]
    assert evaluate(make_detections(rows), annotations, [0.5]).map.tolist() == [1.0]
    assert evaluate(make_detections(rows[::-1]), annotations, [0.5]).map.tolist() == [0.5]


def test_classes_without_instances_have_no_ap(tmp_path: Path) -> None:
    annotations = make_annotations([("v0", "x", 0, 10)])
    detections = make_detections([("v0", "x", 0, 10, 0.5), ("v0", "y", 0, 10, 0.9)])
    evaluation = evaluate(detections, annotations, [0.5, 0.75])
    assert evaluation.map.tolist() == [1.0, 1.0]
    assert np.isnan(evaluation.ap[1:]).all()
    write_json(tmp_path / "evaluation.json", evaluation.to_json())
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["classes"]["y"] == {"instances": 0, "detections": 1, "AP": None}
    assert written["classes"]["x"] == {"instances": 1, "detections": 1, "AP": [1.0, 1.0]}
    assert (written["mAP"], written["average"], written["tiou"]) == ([1.0, 1.0], 1.0, [0.5, 0.75])
    assert written["protocol"]["classes"] == 1


def test_videos_that_are_unknown_or_of_another_subset() -> None:
    videos = {
        "a": VideoAnnotation("test", None, (Instance(0, 10, "x"),)),
        "b": VideoAnnotation("train", None, (Instance(0, 10, "x"),)),
        "quiet": VideoAnnotation("test", None, ()),
    }
    annotations = Annotations(videos, LABELS).subset("test")
    hit = ("a", "x", 0.0, 10.0, 0.1)
    other, unknown, quiet = (
        ("b", "x", 0.0, 10.0, 0.9),
        ("z", "x", 0.0, 10.0, 0.8),
        ("quiet", "x", 0.0, 1.0, 0.7),
    )
    evaluation = evaluate(make_detections([hit, other]), annotations, [0.5])
    assert evaluation.map.tolist() == [1.0]  # the other subset is no business of this figure
    assert (evaluation.protocol.detections_elsewhere, evaluation.protocol.videos_elsewhere) == (1, 1)
    evaluation = evaluate(make_detections([hit, other, unknown, quiet]), annotations, [0.5])
    assert evaluation.map.tolist() == pytest.approx([1 / 3])  # false positives first, as in the toolkit
    protocol = evaluation.protocol
    assert (protocol.videos, protocol.videos_annotated, protocol.videos_with_detections) == (2, 1, 2)
    assert (protocol.videos_unknown, protocol.detections_unknown, protocol.detections) == (1, 1, 3)


def test_no_detections_at_all() -> None:
    evaluation = evaluate(make_detections([]), make_annotations([("v0", "x", 0, 10)]), TIOU)
    assert evaluation.map.tolist() == [0.0] * len(TIOU)


def test_unknown_label_names_file_row_and_label(tmp_path: Path) -> None:
    path = tmp_path / "detections.csv"
    path.write_text("video_id,label,start,end,score\nv0,Diving,0,1,0.5\nv0,divin,0,1,0.5\n")
    annotations = Annotations({"v0": VideoAnnotation("t", None, (Instance(0, 1, "Diving"),))}, ("Diving",))
    with pytest.raises(InputError) as caught:
        evaluate(read_detections(path), annotations, [0.5])
    message = str(caught.value)
    assert message.startswith(f"{path}: line 3: 'divin' is no class")
    assert "did you mean 'Diving'?" in message


def test_nothing_to_find_and_senseless_thresholds() -> None:
    detections = make_detections([("v0", "x", 0, 10, 0.5)])
    with pytest.raises(InputError, match="no instance to find"):
        evaluate(detections, make_annotations([]), [0.5])
    for tiou in ([], [0.0], [1.1], [float("nan")]):
        with pytest.raises(ValueError, match="tIoU"):
            evaluate(detections, make_annotations([("v0", "x", 0, 10)]), tiou)


def test_segment_iou() -> None:
    iou = segment_iou([[0, 10], [5, 5], [2, 4]], [[0, 5], [10, 20], [5, 5], [2, 4]])
    np.testing.assert_allclose(iou, [[0.5, 0, 0, 0.2], [0, 0, 0, 0], [0.4, 0, 0, 1]])
    assert segment_iou(np.zeros((0, 2)), [[0, 1]]).shape == (0, 1)


def test_average_precision_takes_the_best_later_precision() -> None:
    # precisions at the hits are 1/2 and 2/3: the first is raised to 2/3
    assert average_precision([False, True, True], 2) == pytest.approx(2 / 3)
    assert average_precision([], 2) == 0


def test_average_recall_uses_more_proposals_where_there_are_more() -> None:
    annotations = make_annotations([("v0", "x", 0, 10), ("v1", "x", 0, 10)])
    rows = [("v0", "x", 50.0, 60.0, 0.9), ("v0", "x", 0.0, 10.0, 0.8), ("v1", "x", 0.0, 9.0, 0.1)]
    curve = average_recall(make_detections(rows), annotations, (0.5, 0.95), max_average=2)
    assert curve.recall.shape == (2, 100)
    assert curve.recall[:, -1].tolist() == [1.0, 0.5]
    assert curve.proposals[-1] == pytest.approx(2)
    assert curve.recall[0, 0] == 0
    assert 0 < curve.area < 1
    with pytest.raises(InputError, match="no proposals"):
        average_recall(make_detections([]), annotations)
    with pytest.raises(InputError, match="no proposal in a video"):
        average_recall(make_detections([("unknown", "x", 0, 10, 1.0)]), annotations)
    with pytest.raises(InputError, match="no instance"):
        average_recall(make_detections(rows), make_annotations([]))
