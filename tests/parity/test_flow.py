"""Our TV-L1 against OpenCV's: the golden pairs, OpenCV as it is installed, and OpenCV against itself.

Every step agrees to roundings, which the tests of few warps hold it to. Warping at 25 places of a pyramid
amplifies roundings where the images do not determine the flow. How much is measured on OpenCV itself, by
adding a unit in the last place of float32 (at most 1.5e-5 grey levels) to half of the first image's pixels.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avfusion.media.flow import flow_between, quantise
from avfusion.ops import TVL1Options, extension_status, tvl1_flow
from avfusion.ops.tvl1 import _arguments, reference_tvl1_flow

Flow = NDArray[np.float32]
Image = NDArray[np.uint8]
PAIRS = 3
# OpenCV 4 rounds where it reads images to 1/32 pixel.
opencv5 = pytest.mark.skipif(
    int(cv2.__version__.split(".")[0]) < 5 or not hasattr(cv2, "optflow"),
    reason="needs OpenCV 5 with contrib",
)


@pytest.fixture(scope="module")
def pairs(golden: Path) -> list[tuple[Image, Image, Flow]]:
    with np.load(golden / "ops" / "flow_tvl1.npz", allow_pickle=False) as file:
        return [(file[f"in.prev_{i}"], file[f"in.next_{i}"], file[f"out.flow_{i}"]) for i in range(PAIRS)]


def ours(first: Image, second: Image, options: TVL1Options | None = None) -> Flow:
    given = torch.from_numpy(first)[None], torch.from_numpy(second)[None]
    return tvl1_flow(*given, options)[0].numpy()


def opencv(first: Any, second: Any, options: TVL1Options | None = None) -> Flow:
    library: Any = cv2
    options = options or TVL1Options()
    method = library.optflow.DualTVL1OpticalFlow_create(
        *(options.tau, options.weight, options.theta, options.scales, options.warps, options.epsilon),
        *(options.inner, options.outer, options.scale_step, 0.0, options.median, False),
    )
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return np.asarray(method.calc(first, second, None))
    finally:
        cv2.setNumThreads(threads)


def end_point_error(flow: Flow, other: Flow) -> NDArray[np.float32]:
    return np.linalg.norm(flow - other, axis=-1)


# Mean and 95th percentile of the end-point difference in pixels over all of the image, and the share of
# pixels within 0.05. Pair 0 is a translation, which determines the flow. The golden data suggests 0.05 and
# 0.2 away from the border.
TOLERANCE = [(1e-4, 5e-4, 1.0), (0.01, 0.04, 0.985), (0.025, 0.08, 0.92)]


def test_golden_pairs(pairs: list[tuple[Image, Image, Flow]]) -> None:
    for (first, second, expected), (mean, most, share) in zip(pairs, TOLERANCE, strict=True):
        error = end_point_error(ours(first, second), expected)
        assert error.mean() < mean
        assert np.percentile(error, 95) < most
        assert (error < 0.05).mean() >= share


@pytest.mark.skipif(not extension_status().loaded, reason=str(extension_status()))
def test_plain_torch_is_the_same_to_the_last_bit(pairs: list[tuple[Image, Image, Flow]]) -> None:
    first, second = (torch.from_numpy(np.stack([pair[i] for pair in pairs])) for i in (0, 1))
    flows = reference_tvl1_flow(first, second, *_arguments(TVL1Options()))
    assert torch.equal(flows, tvl1_flow(first, second))


def test_golden_pairs_in_eight_bits(pairs: list[tuple[Image, Image, Flow]]) -> None:
    for first, second, expected in pairs:
        flow = flow_between(torch.from_numpy(np.stack([first, second])), "tvl1")
        difference = np.abs(quantise(flow)[0].numpy().astype(int) - quantise(expected))
        assert (difference <= 1).mean() > 0.98  # of a step of 40/255 pixels


@opencv5
@pytest.mark.parametrize(
    ("options", "mean", "most"),
    [
        (TVL1Options(scales=1, warps=1, inner=1, outer=1, median=1, epsilon=0), 1e-8, 1e-6),
        (TVL1Options(scales=1, warps=1, epsilon=0), 1e-6, 1e-5),
        (TVL1Options(scales=1, warps=1, epsilon=0.02), 1e-6, 1e-5),  # ends early: a step more is 0.02
        (TVL1Options(scales=1, warps=1, epsilon=0.05, median=1), 1e-6, 1e-5),
        (TVL1Options(scales=2, warps=1, inner=10, outer=1, epsilon=0), 1e-5, 5e-4),
        (TVL1Options(scales=5, warps=1, inner=5, outer=1, epsilon=0), 2e-5, 5e-4),
        (TVL1Options(scales=1, warps=2, inner=10, outer=1, epsilon=0), 1e-5, 5e-4),
        (TVL1Options(scales=1, warps=1, tau=0.1, weight=0.3, theta=0.5, epsilon=0), 1e-6, 2e-5),
    ],
)
def test_steps_are_those_of_opencv(
    pairs: list[tuple[Image, Image, Flow]], options: TVL1Options, mean: float, most: float
) -> None:
    for first, second, _ in pairs:
        expected = opencv(first, second, options)
        error = end_point_error(ours(first, second, options), expected)
        assert np.abs(expected).max() > 0.04
        assert error.mean() < mean
        assert error.max() < most


@opencv5
def test_as_near_to_opencv_as_opencv_to_itself(pairs: list[tuple[Image, Image, Flow]]) -> None:
    def changed(image: Image, seed: int) -> Flow:
        """The image as OpenCV takes float32, with some pixels larger by a unit in the last place."""
        values = image / np.float32(255)
        chosen = np.random.RandomState(seed).rand(*image.shape) < 0.5
        return np.where(chosen, np.nextafter(values, np.float32(1)), values)

    own, its = 0.0, np.zeros(3)
    for first, second, expected in pairs:
        assert np.array_equal(opencv(first, second), expected)  # as it was recorded
        own += end_point_error(ours(first, second), expected).mean()
        for seed in range(len(its)):
            flow = opencv(changed(first, seed), second / np.float32(255))
            its[seed] += end_point_error(flow, expected).mean()
    assert own < 1.5 * its.max()


@pytest.mark.gpu
@pytest.mark.skipif(
    not (torch.cuda.is_available() and extension_status().cuda), reason="needs the CUDA kernels and a GPU"
)
def test_golden_pairs_on_cuda(pairs: list[tuple[Image, Image, Flow]]) -> None:
    first, second = (torch.from_numpy(np.stack([pair[i] for pair in pairs])).cuda() for i in (0, 1))
    flows = tvl1_flow(first, second).cpu().numpy()
    for flow, (_, _, expected), (mean, most, share) in zip(flows, pairs, TOLERANCE, strict=True):
        error = end_point_error(flow, expected)
        assert error.mean() < mean
        assert np.percentile(error, 95) < most
        assert (error < 0.05).mean() >= share
