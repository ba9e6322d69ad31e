"""The paired bootstrap: a draw of videos counts exactly as evaluating the drawn videos would."""

from dataclasses import replace

import numpy as np
import pytest

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.data.detections import Detections
from avfusion.evaluation.bootstrap import paired_bootstrap, weighted_map
from avfusion.evaluation.mean_ap import evaluate, match

TIOU = (0.3, 0.5, 0.7)
LABELS = ("clap", "hop", "wave")
VIDEOS = 6


def truth() -> Annotations:
    rng = np.random.RandomState(0)
    videos = {}
    for v in range(VIDEOS):
        starts = np.arange(4) * 10 + rng.uniform(0, 3, 4)
        label = rng.randint(3, size=4)
        instances = [
            Instance(s, s + d, LABELS[c]) for s, d, c in zip(starts, rng.uniform(2, 6, 4), label, strict=True)
        ]
        videos[f"v{v}"] = VideoAnnotation("test", 50.0, tuple(instances))
    return Annotations(videos, LABELS)


def noisy(annotations: Annotations, noise: float, seed: int) -> Detections:
    """The instances with their boundaries moved, and as many segments anywhere."""
    rng = np.random.RandomState(seed)
    rows = []
    for v, value in enumerate(annotations.videos.values()):
        for i in value.instances:
            start, end = i.start + rng.normal(0, noise), i.end + rng.normal(0, noise)
            rows.append((v, LABELS.index(i.label), start, max(end, start + 0.1), rng.uniform(0.3, 1)))
            at = rng.uniform(0, 45)
            rows.append((v, rng.randint(3), at, at + 3, rng.uniform(0, 0.9)))
    video, label, start, end, score = np.array(rows).T
    names = tuple(annotations.videos)
    return Detections(names, LABELS, video.astype(int), label.astype(int), start, end, score)


def drawn(
    annotations: Annotations, detections: Detections, counts: np.ndarray
) -> tuple[Annotations, Detections]:
    """The same, with every video as often as `counts` says, under names of its own."""
    copies = [(v, k) for v, count in enumerate(counts) for k in range(count)]
    names = list(annotations.videos)
    videos = {f"{names[v]}-{k}": annotations.videos[names[v]] for v, k in copies}
    number = {copy: index for index, copy in enumerate(copies)}
    rows = [(n, number[v, k]) for n, v in enumerate(detections.video) for k in range(counts[v])]
    taken, video = np.array(rows).T
    columns = {name: getattr(detections, name)[taken] for name in ("label", "start", "end", "score")}
    return replace(annotations, videos=videos), Detections(tuple(videos), LABELS, video=video, **columns)


def test_a_draw_counts_as_evaluating_the_drawn_videos_does() -> None:
    annotations = truth()
    detections = noisy(annotations, 0.6, 1)
    rng = np.random.RandomState(2)
    counts = np.array(
        [[1] * VIDEOS, *(np.bincount(rng.randint(VIDEOS, size=VIDEOS), minlength=6) for _ in range(5))]
    )
    found = weighted_map(match(detections, annotations, TIOU), counts)
    wanted = [evaluate(*reversed(drawn(annotations, detections, row)), TIOU).average for row in counts]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    assert len(set(np.round(found, 6))) > 3


def test_detections_in_videos_that_nobody_annotated_count_in_every_draw() -> None:
    annotations = truth()
    detections = noisy(annotations, 0.6, 1)
    extra = {
        name: np.append(getattr(detections, name), value)
        for name, value in (("video", VIDEOS), ("label", 0), ("start", 1.0), ("end", 2.0), ("score", 2.0))
    }
    more = Detections((*detections.videos, "unknown"), LABELS, **extra)
    ones = np.ones((1, VIDEOS), dtype=int)
    assert weighted_map(match(more, annotations, TIOU), ones) == pytest.approx(
        evaluate(more, annotations, TIOU).average
    )


def test_a_clear_difference_is_certain_and_none_is_not() -> None:
    annotations = truth()
    good, poor = (match(noisy(annotations, noise, 3), annotations, TIOU) for noise in (0.1, 2.0))
    again = match(noisy(annotations, 0.1, 4), annotations, TIOU)
    better = paired_bootstrap(good, poor, VIDEOS)
    assert better.certain and 0 < better.low < better.mean < better.high
    assert better == paired_bootstrap(good, poor, VIDEOS), "one seed, one result"
    same = paired_bootstrap(good, again, VIDEOS)
    assert not same.certain and same.low <= same.mean <= same.high
    worse = paired_bootstrap(poor, good, VIDEOS)
    assert worse.certain and worse.mean == -better.mean


def test_only_what_was_measured_alike_is_compared() -> None:
    annotations = truth()
    one = match(noisy(annotations, 0.1, 3), annotations, TIOU)
    with pytest.raises(ValueError, match="same thresholds"):
        paired_bootstrap(one, replace(one, tiou=(0.5,)), VIDEOS)
