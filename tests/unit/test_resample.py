"""Features at the snippets of another time axis: ramps, means, edges."""

import numpy as np
import pytest

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.fusion.resample import covered, resample


def ramp(axis: TimeAxis, count: int) -> VideoFeatures:
    """Two lines in time."""
    seconds = axis.centres(count)
    return VideoFeatures(np.stack([seconds, 3 - 2 * seconds], axis=1).astype(np.float32), axis)


@pytest.mark.parametrize("stride", [0.11, 0.5, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("first", [-0.4, 0.0, 0.37])
def test_a_ramp_stays_the_same_line(first: float, stride: float) -> None:
    old, new = TimeAxis(first, stride, 1.0), TimeAxis(3.3, 1.0, 2.0)
    count = int(20 / stride)
    got = resample(ramp(old, count), new, 12)
    np.testing.assert_allclose(got, ramp(new, 12).values, rtol=0, atol=2e-5)


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
def test_snippets_that_fill_a_cell_give_their_mean(parts: int) -> None:
    new = TimeAxis(first=0.5, stride=1.0, window=1.0)
    old = TimeAxis(first=0.5 / parts, stride=1 / parts, window=2.0)
    values = np.random.RandomState(0).standard_normal((6 * parts, 3)).astype(np.float32)
    got = resample(VideoFeatures(values, old), new, 6)
    np.testing.assert_allclose(got, values.reshape(6, parts, 3).mean(axis=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [0.07, 0.4, 0.55, 0.99])
def test_no_snippet_of_a_finer_stream_is_passed_over(stride: float) -> None:
    old, count = TimeAxis(first=0.03, stride=stride, window=1.0), int(10 / stride)
    marked = VideoFeatures(np.eye(count, dtype=np.float32), old)  # channel k is heard in snippet k only
    new = TimeAxis(first=0.5, stride=1.0, window=1.0)
    weights = resample(marked, new, 10)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=0, atol=1e-6)
    cell = np.clip(np.floor(old.centres(count)), 0, 9).astype(int)
    assert (weights[cell, np.arange(count)] > 0).all()
    near = np.abs(new.centres(10)[:, None] - old.centres(count)) < 0.5 + stride
    assert (weights[~near] == 0).all()


def test_the_same_axis_changes_nothing() -> None:
    axis = TimeAxis(0.3, 0.7, 1.0)
    values = np.random.RandomState(0).standard_normal((9, 4)).astype(np.float32)
    np.testing.assert_allclose(resample(VideoFeatures(values, axis), axis, 9), values, rtol=0, atol=1e-6)


def test_edges_keep_the_first_and_the_last_value() -> None:
    old = TimeAxis(2.5, 1.0, 1.0)
    features = VideoFeatures(np.array([[1.0], [5.0]], dtype=np.float32), old)
    for stride in (0.5, 1.0, 1.5):
        got = resample(features, TimeAxis(0.0, stride, 1.0), 20)[:, 0]
        assert got[0] == pytest.approx(1.0) and got[-1] == pytest.approx(5.0)
        assert (np.diff(got) >= -1e-6).all()


def test_a_single_snippet_is_everywhere_and_none_is_an_error() -> None:
    axis = TimeAxis(0.5, 1.0, 1.0)
    one = VideoFeatures(np.array([[7.0]], dtype=np.float32), axis)
    np.testing.assert_allclose(resample(one, TimeAxis(0.0, 3.0, 1.0), 4), 7.0)
    with pytest.raises(ValueError, match="without snippets"):
        resample(VideoFeatures(np.zeros((0, 2), np.float32), axis), axis, 3)


def test_what_a_stream_covers() -> None:
    features = VideoFeatures(np.zeros((3, 1), np.float32), TimeAxis(first=2.0, stride=1.0, window=2.0))
    seconds = np.array([0.9, 1.0, 3.0, 5.0, 5.1])
    assert covered(features, seconds).tolist() == [False, True, True, True, False]
