"""Windows and targets of G-TAD: properties beyond the published numbers."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.detectors.gtad_windows import (
    Grid,
    candidate_frames,
    cut,
    instances_of_window,
    rescale,
    to_frames,
    to_seconds,
    window_starts,
    window_targets,
)

PUBLISHED = Grid(scale=16, durations=8, skip=5)
EXACT = Grid(scale=16, durations=8, skip=5, exact=True)


def best_candidate(instance: list[float], first: int, grid: Grid) -> NDArray[np.float64]:
    """Frames of the candidate that an instance is the target of."""
    iou = window_targets(np.array([instance], dtype=float), first, grid).iou
    proposed, frames = candidate_frames(first, grid, to_the_end=True)
    return frames[iou[proposed].argmax()]


@pytest.mark.parametrize(
    ("snippets", "published", "covering"),
    [
        (5, [0], [0]),
        (16, [0], [0]),
        (19, [0], [0, 3]),  # 3 are left, which are not more than 16 // 5
        (20, [0, 4], [0, 4]),
        (24, [0, 8], [0, 8]),
        (41, [0, 8, 16, 24], [0, 8, 16, 24, 25]),
    ],
)
def test_windows_of_a_sequence(snippets: int, published: list[int], covering: list[int]) -> None:
    assert window_starts(snippets, PUBLISHED) == published
    assert window_starts(snippets, PUBLISHED, cover=True) == covering


@pytest.mark.parametrize("first", [0, 3, 10])
def test_exact_candidates_mean_the_same_when_training_and_proposing(first: int) -> None:
    begin = 5 * (first + 4) - 2.5
    np.testing.assert_allclose(best_candidate([begin, begin + 30], first, EXACT), [begin, begin + 30])
    iou = window_targets(np.array([[begin, begin + 30]]), first, EXACT).iou
    assert iou.max() == 1.0 and np.unravel_index(iou.argmax(), iou.shape) == (5, 4)


def test_published_candidates_are_proposed_half_a_snippet_late() -> None:
    np.testing.assert_allclose(best_candidate([22.5, 52.5], 0, PUBLISHED), [25, 55])


def test_an_instance_without_a_window_that_holds_most_of_it_trains_nothing() -> None:
    inside, half_out = [10.0, 40.0], [60.0, 110.0]  # the window ends at frame 77.5
    assert instances_of_window(np.array([half_out]), 0, PUBLISHED) is None
    seen = instances_of_window(np.array([half_out, inside, [90.0, 95.0]]), 0, PUBLISHED)
    assert seen is not None and seen.tolist() == [half_out, inside]


def test_boundaries_light_up_where_they_are() -> None:
    targets = window_targets(np.array([[20.0, 50.0]]), 0, PUBLISHED)
    np.testing.assert_allclose(targets.start[2:7], [0, 1, 1, 1, 0])
    np.testing.assert_allclose(targets.end[8:13], [0, 1, 1, 1, 0])


def test_boundaries_of_rescaled_windows_stand_where_candidates_begin() -> None:
    grid = Grid(scale=16, durations=8, skip=5, exact=True, centred=False)
    targets = window_targets(np.array([[5 * 4 - 2.5, 5 * 10 - 2.5]]), 0, grid)
    np.testing.assert_allclose(targets.start[2:7], [0, 1, 1, 1, 0])
    np.testing.assert_allclose(targets.end[8:13], [0, 1, 1, 1, 0])


def test_candidates_that_end_with_the_window_are_left_out_as_published() -> None:
    proposed, frames = candidate_frames(0, EXACT)
    assert frames.max() == 5 * 15 - 2.5 and not proposed[0, 15]
    proposed, frames = candidate_frames(0, EXACT, to_the_end=True)
    assert frames.max() == 5 * 16 - 2.5
    np.testing.assert_array_equal(proposed, EXACT.mask() > 0)


def test_a_window_beyond_the_end_is_filled_with_zeros() -> None:
    window = cut(torch.ones(2, 5), 3, 4)
    assert window.tolist() == [[1, 1, 0, 0]] * 2


def test_frames_and_seconds() -> None:
    axis = TimeAxis(first=0.5, stride=0.25, window=1.0)
    assert to_frames(np.array([0.5, 0.75]), axis, 5).tolist() == [0, 5]
    times = np.array([[0.3, 7.1]])
    np.testing.assert_allclose(to_seconds(to_frames(times, axis, 5), axis, 5), times)


def test_rescaled_features_cover_the_same_time() -> None:
    features = VideoFeatures(np.arange(20, dtype=np.float32)[:, None], TimeAxis(0.5, 0.25, 1.0))
    scaled = rescale(features, 8)
    assert scaled.values.shape == (8, 1) and scaled.axis.origin == pytest.approx(features.axis.origin)
    assert 8 * scaled.axis.stride == pytest.approx(20 * 0.25)
    # a ramp stays one: every value is that of its centre
    centres = (scaled.axis.centres(8) - features.axis.first) / 0.25
    np.testing.assert_allclose(scaled.values[:, 0], centres, rtol=1e-5)
