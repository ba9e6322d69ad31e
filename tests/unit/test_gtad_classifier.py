"""The classifier of segments that gives G-TAD's proposals their classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_data import LABELS, planted

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.detectors.base import Video
from avfusion.detectors.classifier import fit_classifier, segment_features
from avfusion.errors import InputError

AXIS = TimeAxis(0.5, 1.0, 1.0)  # cell i is [i, i + 1] seconds
RAMP = VideoFeatures(np.arange(8, dtype=np.float32)[:, None], AXIS)


def videos(count: int, seed: int) -> list[Video]:
    features, annotations = planted(count, seed)
    found = []
    for name, value in annotations.videos.items():
        segments = np.array([(i.start, i.end) for i in value.instances]).reshape(-1, 2)
        classes = np.array([LABELS.index(i.label) for i in value.instances], dtype=np.int64)
        found.append(Video(name, features[name], instances=segments, classes=classes))
    return found


@pytest.mark.parametrize(
    ("segment", "wanted"),
    [
        ([2.0, 4.0], [2.5, 1, 4]),  # cells 2 and 3; 1 before; 4 after
        ([2.5, 3.5], [2.5, 2, 3]),  # halves of cells 2 and 3
        ([0.0, 4.0], [1.5, 0, 4.5]),  # nothing before: the first cell stands in
        ([6.0, 8.0], [6.5, 5, 7]),
        ([9.0, 11.0], [7, 7, 7]),  # beyond the features
    ],
)
def test_means_of_a_segment_and_its_context(segment: list[float], wanted: list[float]) -> None:
    np.testing.assert_allclose(segment_features(RAMP, np.array([segment]))[0], wanted, atol=1e-6)


def test_no_segments() -> None:
    assert segment_features(RAMP, np.zeros((0, 2))).shape == (0, 3)


def probabilities(fitted: tuple[torch.Tensor, torch.Tensor], inputs: np.ndarray) -> np.ndarray:
    return (torch.from_numpy(inputs) @ fitted[0].T + fitted[1]).softmax(dim=1).numpy()


def test_instances_of_other_videos_get_their_class_and_gaps_background() -> None:
    fitted = fit_classifier(videos(10, seed=1), 3)
    right = total = quiet = gaps = 0
    for video in videos(5, seed=2):
        best = probabilities(fitted, segment_features(video.features, video.instances)).argmax(1)
        right, total = right + int((best == video.classes + 1).sum()), total + len(best)
        between = np.stack([video.instances[:-1, 1], video.instances[1:, 0]], axis=1)
        found = probabilities(fitted, segment_features(video.features, between)).argmax(1)
        quiet, gaps = quiet + int((found == 0).sum()), gaps + len(between)
    assert right > 0.9 * total and quiet > 0.9 * gaps


def test_the_fit_has_no_chance_in_it_and_does_not_touch_the_global_one() -> None:
    state = torch.random.get_rng_state()
    first, second = (fit_classifier(videos(4, seed=1), 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_class_without_instances_is_unlikely() -> None:
    known = videos(4, seed=1)
    fitted = fit_classifier(known, 4)
    assert fitted[0].shape == (5, 36) and torch.isfinite(fitted[0]).all()
    inputs = segment_features(known[0].features, known[0].instances)
    assert probabilities(fitted, inputs)[:, 4].max() < 0.1


def test_constant_channels_do_no_harm() -> None:
    known = videos(3, seed=1)
    padded = [
        replace(v, features=VideoFeatures(np.pad(v.features.values, ((0, 0), (0, 1))), v.features.axis))
        for v in known
    ]
    weight, _ = fit_classifier(padded, 3)
    assert torch.isfinite(weight).all() and weight[:, 12].abs().max() == 0


def test_there_must_be_something_to_learn_from() -> None:
    empty = [Video(v.name, v.features) for v in videos(2, seed=1)]
    with pytest.raises(InputError, match="no video with features has an instance to learn classes from"):
        fit_classifier(empty, 3)
