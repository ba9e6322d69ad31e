"""Optical flow between consecutive frames, and its published eight-bit form.

``tvl1`` is TV-L1 as published two-stream features were made with: the algorithm and parameters of OpenCV's
Dual TV-L1, by `avfusion.ops.tvl1_flow` on the CPU or on CUDA (benchmarks/flow.py says how fast).
``tvl1_opencv`` is OpenCV's own, to compare with. ``dis`` is dense inverse search (OpenCV's, preset "medium"):
quick everywhere, but another flow than published weights know. OpenCV runs on one thread here: the result of
``dis`` depends on their number.
"""

import threading
from collections.abc import Callable
from functools import cache
from typing import Any, overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfusion.media.snippets import NO_MOTION
from avfusion.ops import extension_status, tvl1_flow

PAIRS = 256  # of frames at once where a whole snippet's flow is computed: enough to fill a GPU
BOUND = 20.0  # pixels; larger motion is cut off, as published
_OPENCV = threading.Lock()  # its calculators and its number of threads are one for all threads
FLOW_METHODS = ("tvl1", "tvl1_opencv", "dis")


def flow_between(frames: Tensor, method: str) -> Tensor:
    """Motion from every frame to the next one.

    Args:
        frames: uint8 (N, H, W), grey, N > 0. ``tvl1`` is computed on their device, on the CPU a pair per
            thread; the methods of OpenCV always on the CPU.
        method: one of `FLOW_METHODS`.

    Returns:
        float32 (N - 1, H, W, 2) on the device of `frames`: dx and dy in pixels, where `frames[i + 1]` at
        (x + dx, y + dy) looks like `frames[i]` at (x, y).
    """
    check_method(method)
    if method == "tvl1":
        return tvl1_flow(frames[:-1], frames[1:])
    images = frames.cpu().numpy()
    flows = [_by_opencv(images[i], images[i + 1], method) for i in range(len(images) - 1)]
    if not flows:
        return torch.empty((0, *frames.shape[1:], 2), device=frames.device)
    return torch.from_numpy(np.stack(flows)).to(frames.device)


def optical_flow(
    previous: NDArray[np.uint8], following: NDArray[np.uint8], method: str
) -> NDArray[np.float32]:
    """Motion from one grey frame to the next, on the CPU.

    Args:
        previous: uint8 (H, W).
        following: uint8 (H, W); `following` at (x + dx, y + dy) looks like `previous` at (x, y).
        method: one of `FLOW_METHODS`.

    Returns:
        float32 (H, W, 2): dx and dy in pixels.
    """
    flow: NDArray[np.float32] = flow_between(torch.from_numpy(np.stack([previous, following])), method)[
        0
    ].numpy()
    return flow


def snippet_flow(frames: Tensor, motions: int, method: str) -> Tensor:
    """The flow that snippets see, of the grey frames that `VisualSource.grey` gives.

    Args:
        frames: uint8 (N, H, W) on the device that computes ``tvl1``.
        motions: how many are wanted; without ``motions + 1`` frames, the last motion is repeated.
        method: one of `FLOW_METHODS`.

    Returns:
        uint8 (motions, H, W, 2) as `quantise` gives it, on the device of `frames`.
    """
    result = frames.new_full((motions, *frames.shape[1:], 2), NO_MOTION)
    known = min(motions, len(frames) - 1)
    for begin in range(0, known, PAIRS):
        end = min(begin + PAIRS, known)
        result[begin:end] = quantise(flow_between(frames[begin : end + 1], method))
    if 0 < known < motions:
        result[known:] = result[known - 1]
    return result


def flow_implementation(method: str, device: str | torch.device = "cpu") -> str:
    """What computes a method on a device, in a few words for a log or a file."""
    check_method(method)
    if method != "tvl1":
        return f"OpenCV {cv2.__version__}"
    status = extension_status()
    if torch.device(device).type == "cuda":
        return "CUDA" if status.cuda else "plain torch on CUDA, slower"
    return "C++" if status.loaded else "plain torch, as slow as OpenCV"


def check_method(method: str) -> None:
    """Refuse what is not one of `FLOW_METHODS`.

    Raises:
        ValueError: naming the known ones.
    """
    if method not in FLOW_METHODS:
        raise ValueError(f"unknown flow method '{method}', known are {', '.join(FLOW_METHODS)}")


def _by_opencv(previous: NDArray[np.uint8], following: NDArray[np.uint8], method: str) -> NDArray[np.float32]:
    with _OPENCV:
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
    if method == "tvl1_opencv":
        return library.optflow.DualTVL1OpticalFlow_create().calc
    return library.DISOpticalFlow_create(library.DISOPTICAL_FLOW_PRESET_MEDIUM).calc


@overload
def quantise(flow: Tensor) -> Tensor: ...
@overload
def quantise(flow: NDArray[np.float32]) -> NDArray[np.uint8]: ...
def quantise(flow: Tensor | NDArray[np.float32]) -> Tensor | NDArray[np.uint8]:
    """Flow as the published pipelines store it: cut to [-20, 20] pixels and mapped to 0..255.

    Rounds half to even, so that no motion becomes 128 and not 127.5. Tensors stay on their device.
    """
    if isinstance(flow, Tensor):
        return ((flow.clamp(-BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).round().to(torch.uint8)
    return np.rint((np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).astype(np.uint8)
