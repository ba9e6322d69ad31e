"""Optical flow between consecutive frames by OpenCV, and its published eight-bit form.

``tvl1`` is Dual TV-L1 with OpenCV's default parameters, which the published two-stream features were made
with (about 1 frame/s per core at 340x256 where things move); ``dis`` is dense inverse search (preset
"medium"), about 90 frames/s. OpenCV runs on one thread here: the result of ``dis`` depends on their number.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BOUND = 20.0  # pixels; larger motion is cut off, as published
FLOW_METHODS = ("tvl1", "dis")


def optical_flow(
    previous: NDArray[np.uint8], following: NDArray[np.uint8], method: str
) -> NDArray[np.float32]:
    """Motion from one grey frame to the next.

    Args:
        previous: uint8 (H, W).
        following: uint8 (H, W); `following` at (x + dx, y + dy) looks like `previous` at (x, y).
        method: one of `FLOW_METHODS`.

    Returns:
        float32 (H, W, 2): dx and dy in pixels.
    """
    if method not in FLOW_METHODS:
        raise ValueError(f"unknown flow method '{method}', known are {', '.join(FLOW_METHODS)}")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        flow = _calculator(method)(previous, following, None)
    finally:
        cv2.setNumThreads(threads)
    return np.asarray(flow, dtype=np.float32)


@cache
def _calculator(method: str) -> Callable[..., NDArray[np.float32]]:
    library: Any = cv2  # its type stubs lack both
    library.ocl.setUseOpenCL(False)
    if method == "tvl1":
        return library.optflow.DualTVL1OpticalFlow_create().calc
    return library.DISOpticalFlow_create(library.DISOPTICAL_FLOW_PRESET_MEDIUM).calc


def quantise(flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Flow as the published pipelines store it: cut to [-20, 20] pixels and mapped to 0..255.

    Rounds half to even, so that no motion becomes 128 and not 127.5.
    """
    return np.rint((np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).astype(np.uint8)
