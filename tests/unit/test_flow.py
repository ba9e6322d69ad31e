"""Optical flow: sign and units, its eight-bit form, and that it does not depend on threads."""

import cv2
import numpy as np
import pytest

from avfusion.media.flow import FLOW_METHODS, optical_flow, quantise


def _texture(size: int = 96) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((size, size))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


@pytest.mark.parametrize("method", FLOW_METHODS)
def test_moving_right_and_up_is_positive_x_and_negative_y(method: str) -> None:
    previous = _texture()
    following = np.roll(previous, (-1, 2), axis=(0, 1))
    flow = optical_flow(previous, following, method)
    assert flow.shape == (96, 96, 2)
    assert flow.dtype == np.float32
    inner = flow[12:-12, 12:-12]
    assert np.median(inner[..., 0]) == pytest.approx(2, abs=0.2)
    assert np.median(inner[..., 1]) == pytest.approx(-1, abs=0.2)


@pytest.mark.parametrize("method", FLOW_METHODS)
def test_nothing_moves(method: str) -> None:
    image = _texture(64)
    assert np.abs(optical_flow(image, image, method)).max() == 0


def test_threads_of_opencv_change_nothing_and_stay() -> None:
    previous = _texture()
    following = np.roll(previous, 1, axis=1)
    threads = cv2.getNumThreads()
    try:
        results = []
        for count in (1, 2):
            cv2.setNumThreads(count)
            before = cv2.getNumThreads()
            results.append(optical_flow(previous, following, "dis"))
            assert cv2.getNumThreads() == before
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(*results)


def test_unknown_method() -> None:
    image = _texture(32)
    with pytest.raises(ValueError, match=r"unknown flow method 'farneback', known are tvl1, dis"):
        optical_flow(image, image, "farneback")


def test_quantised_as_published() -> None:
    flow = np.array([-30, -20, -10, 0, 0.07, 0.08, 10, 20, 30], np.float32)
    assert list(quantise(flow)) == [0, 0, 64, 128, 128, 128, 191, 255, 255]
    # every step is 40/255 pixels wide
    assert list(quantise(np.array([0.0784, 0.0786], np.float32))) == [128, 128]
    assert quantise(np.array([0.24], np.float32))[0] == 129
