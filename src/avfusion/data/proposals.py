"""Candidate segments of videos, and how multi-scale windows make them without looking.

On disk: HDF5, a float64 dataset (N, 2) of [start, end] in seconds per video; the file's attribute
``source`` says what made them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from avfusion.data.hdf5 import check_video_id, reading
from avfusion.errors import InputError
from avfusion.files import atomic_path

Segments = NDArray[np.float64]  # (N, 2): start and end in seconds


def sliding_windows(duration: float, lengths: Sequence[float], overlap: float = 0.75) -> Segments:
    """Windows of several lengths that slide over a video.

    Args:
        duration: length of the video in seconds.
        lengths: window lengths in seconds; those longer than the video are cut to it, once.
        overlap: share of a window that the next one of the same length covers, in [0, 1).

    Returns:
        float64 (N, 2) of [start, end] in seconds, by length and then by start. The last window of each
        length ends with the video, so that its end is always covered.
    """
    if not (duration > 0 and all(length > 0 for length in lengths)):
        raise ValueError(f"duration and lengths must be above 0, not {duration} and {list(lengths)}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), not {overlap}")
    windows = []
    for length in sorted({min(length, duration) for length in lengths}):
        count = int(np.ceil((duration - length) / (length * (1 - overlap)) - 1e-9)) + 1
        starts = np.linspace(0.0, duration - length, count)
        windows.append(np.stack([starts, starts + length], axis=1))
    return np.concatenate(windows) if windows else np.zeros((0, 2))


def write_proposals(path: str | Path, proposals: Mapping[str, Segments], source: str) -> None:
    """Write proposals per video to HDF5, atomically; `source` says what made them."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["source"] = source
        for video, segments in proposals.items():
            check_video_id(path, video)
            file.create_dataset(video, data=np.asarray(segments, dtype=np.float64).reshape(-1, 2))


def read_proposals(path: str | Path) -> dict[str, Segments]:
    """Read what `write_proposals` wrote.

    Raises:
        InputError: no HDF5 file, a dataset of another shape, or a segment that ends before it starts.
    """
    with reading(path, "proposals") as file:
        proposals = {video: np.asarray(file[video][()], dtype=np.float64) for video in file}
    for video, segments in proposals.items():
        if segments.ndim != 2 or segments.shape[1] != 2:
            raise InputError(path, f"shape {segments.shape}, expected (N, 2)", video)
        if not (np.isfinite(segments).all() and (segments[:, 1] > segments[:, 0]).all()):
            raise InputError(path, "holds a segment that is not finite or ends before it starts", video)
    return proposals
