"""Proposal pools from seconds, and what is drawn from them. The published sequences are in tests/parity."""

import numpy as np
import pytest

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.detectors.base import Video
from avfusion.detectors.sampling import (
    BACKGROUND,
    FOREGROUND,
    INCOMPLETE,
    SamplingOptions,
    VideoPools,
    draw_sample,
    prediction_rois,
    regression_statistics,
    tick_count,
    to_ticks,
    training_rois,
    video_candidates,
    video_pools,
    video_rois,
)
from avfusion.errors import InputError
from avfusion.options import read_options

AXIS = TimeAxis(first=0.7, stride=0.4, window=1.0)  # cells of 0.4 s from 0.5 s on; a tick is 0.05 s


def video(proposals: list[list[float]], instances: list[list[float]], classes: list[int]) -> Video:
    features = VideoFeatures(np.zeros((100, 2), dtype=np.float32), AXIS)
    segments = [np.array(table, dtype=float).reshape(-1, 2) for table in (proposals, instances)]
    return Video("clip", features, *segments, np.array(classes, dtype=np.int64))


def pools(clip: Video) -> VideoPools:
    instances, proposals = video_candidates(clip, 3)
    return video_pools(instances, proposals, tick_count(clip.features), SamplingOptions())


def test_ticks_are_eighths_of_a_snippet_from_the_origin() -> None:
    clip = video([], [], [])
    np.testing.assert_allclose(to_ticks(np.array([0.5, 0.9, 40.5]), clip.features), [0, 8, 800], atol=1e-9)
    assert tick_count(clip.features) == 800


def test_candidates_carry_the_class_and_overlap_of_their_best_instance() -> None:
    clip = video([[5.0, 15.0], [9.0, 11.0], [30.0, 32.0], [14.0, 24.0]], [[5.0, 15.0], [10.0, 20.0]], [2, 0])
    instances, proposals = video_candidates(clip, 3)
    assert instances.label.tolist() == [3, 1]
    assert proposals.start.tolist() == [90, 170, 590, 270] and proposals.end.tolist() == [290, 210, 630, 470]
    assert proposals.label.tolist() == [3, 3, 0, 1]
    np.testing.assert_allclose(proposals.iou, [1.0, 0.2, 0.0, 6 / 14])
    np.testing.assert_allclose(proposals.overlap, [1.0, 1.0, 0.0, 0.6])
    np.testing.assert_allclose(proposals.coverage, [0.25, 0.05, 0.05, 0.25])


def test_what_lies_outside_of_the_features_is_cut_or_left_out() -> None:
    clip = video([[0.0, 1.0], [40.0, 60.0], [41.0, 42.0]], [[0.0, 2.5], [40.6, 41.0]], [0, 0])
    instances, proposals = video_candidates(clip, 3)
    assert instances.start.tolist() == [0] and instances.end.tolist() == [40]
    assert proposals.start.tolist() == [0, 790] and proposals.end.tolist() == [10, 800]


def test_pools() -> None:
    clip = video([[5.0, 14.0], [9.0, 11.0], [30.0, 32.0], [30.0, 30.5], [5.0, 25.0]], [[5.0, 15.0]], [1])
    found = pools(clip)
    assert found.foreground.labels.tolist() == [2, 2] and found.instances == 1
    assert found.incomplete.labels.tolist() == [2]
    assert found.background.labels.tolist() == [0]  # half a second covers too little of the video
    np.testing.assert_allclose(found.foreground.targets, [[10 / 181, np.log(201 / 181)], [0, 0]])


def test_training_rois_extend_by_half_a_length_within_the_video() -> None:
    rois = training_rois(np.array([100, 5, 780]), np.array([121, 45, 800]), 800)
    assert rois.tolist() == [[101, 121, 91, 131], [6, 45, 1, 65], [781, 800, 771, 800]]


def test_prediction_rois_extend_by_half_a_length_within_the_video() -> None:
    assert prediction_rois(np.array([[0.25, 0.5], [0.0, 1.0]]), 800).tolist() == [
        [200, 400, 100, 500],
        [0, 800, 0, 800],
    ]
    clip = video([], [], [])
    assert video_rois(clip.features, np.array([[10.5, 20.5]]))[0, 2:].tolist() == pytest.approx(
        [100, 500], abs=1
    )


def test_samples_hold_each_kind_in_its_place() -> None:
    clip = video([[5.0, 14.0], [9.0, 11.0], [30.0, 32.0]], [[5.0, 15.0]], [1])
    sample = draw_sample(pools(clip), np.array([[0.0, 0.0], [1.0, 1.0]]), (1, 6, 1), np.random.RandomState(0))
    assert sample.kinds.tolist() == [FOREGROUND] + [INCOMPLETE] * 6 + [BACKGROUND]
    assert sample.rois.shape == (8, 4) and sample.targets.dtype == np.float32
    assert not sample.targets[1:].any()


def test_foreground_stands_in_for_an_empty_pool() -> None:
    clip = video([[5.0, 14.0]], [[5.0, 15.0]], [1])
    sample = draw_sample(pools(clip), np.array([[0.1, 0.0], [0.5, 2.0]]), (1, 6, 1), np.random.RandomState(0))
    assert sample.kinds.tolist() == [FOREGROUND] * 8
    assert np.isin(sample.targets[:, 0], np.float32([(10 / 181 - 0.1) / 0.5, -0.1 / 0.5])).all()


def test_statistics_without_variety_do_not_divide_by_zero() -> None:
    assert regression_statistics([]).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    alike = regression_statistics([pools(video([[5.0, 15.0]] * 2, [[5.0, 15.0]], [1]))])
    assert alike.tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_a_video_without_instances_or_proposals() -> None:
    instances, proposals = video_candidates(video([[5.0, 15.0]], [], []), 3)
    assert len(instances) == 0 and proposals.label.tolist() == [0]
    assert len(video_candidates(video([], [[5.0, 15.0]], [0]), 3)[1]) == 0
    assert len(pools(video([], [[5.0, 15.0]], [0])).foreground) == 1


def test_bad_options() -> None:
    with pytest.raises(InputError, match=r"foreground_iou: must be in \[0, 1\], not 1.5"):
        read_options(SamplingOptions, {"foreground_iou": 1.5}, "config")
    with pytest.raises(InputError, match="incomplete: must be at least 1, not 0"):
        read_options(SamplingOptions, {"incomplete": 0}, "config")
