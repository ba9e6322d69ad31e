"""Optical flow: sign and units, batches, its eight-bit form, and that it does not depend on threads."""

import cv2
import numpy as np
import pytest
import torch

from avfusion.media.flow import FLOW_METHODS, flow_between, flow_implementation, optical_flow, quantise
from avfusion.ops import _extension


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


@pytest.mark.parametrize("method", FLOW_METHODS)
def test_a_batch_is_its_pairs(method: str) -> None:
    frames = np.stack([np.roll(_texture(48), i * i, axis=1) for i in range(4)])
    flows = flow_between(torch.from_numpy(frames), method)
    assert flows.shape == (3, 48, 48, 2)
    for i in range(3):
        assert np.array_equal(flows[i].numpy(), optical_flow(frames[i], frames[i + 1], method))


@pytest.mark.parametrize("method", FLOW_METHODS)
def test_a_single_frame_has_no_flow(method: str) -> None:
    flows = flow_between(torch.from_numpy(_texture(32)[None]), method)
    assert flows.shape == (0, 32, 32, 2)
    assert flows.dtype == torch.float32


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
    with pytest.raises(
        ValueError, match=r"unknown flow method 'farneback', known are tvl1, tvl1_opencv, dis"
    ):
        optical_flow(image, image, "farneback")


def test_what_computes_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def built(loaded: bool, cuda: bool) -> None:
        monkeypatch.setattr(_extension, "_STATUS", _extension.ExtensionStatus(loaded, cuda, ""))

    assert flow_implementation("dis") == flow_implementation("tvl1_opencv") == f"OpenCV {cv2.__version__}"
    built(True, True)
    assert flow_implementation("tvl1") == "C++"
    assert flow_implementation("tvl1", "cuda:1") == "CUDA"
    built(True, False)
    assert flow_implementation("tvl1", "cuda") == "plain torch on CUDA, slower"
    built(False, False)
    assert flow_implementation("tvl1") == "plain torch, as slow as OpenCV"


def test_quantised_as_published() -> None:
    flow = np.array([-30, -20, -10, 0, 0.07, 0.08, 10, 20, 30], np.float32)
    assert list(quantise(flow)) == [0, 0, 64, 128, 128, 128, 191, 255, 255]
    # every step is 40/255 pixels wide
    assert list(quantise(np.array([0.0784, 0.0786], np.float32))) == [128, 128]
    assert quantise(np.array([0.24], np.float32))[0] == 129


def test_tensors_are_quantised_alike() -> None:
    flow = np.random.default_rng(0).uniform(-25, 25, (7, 9, 2)).astype(np.float32)
    flow[0, 0] = 0, 40
    quantised = quantise(torch.from_numpy(flow))
    assert quantised.dtype == torch.uint8
    assert np.array_equal(quantised.numpy(), quantise(flow))
