"""Candidate segments of videos, and how multi-scale windows make them without looking.

On disk: HDF5, a float64 dataset per video, (N, 2) of [start, end] in seconds, or (N, 3) of [start, end,
score], best first; the file's attribute ``source`` says what made them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from avfusion.data.hdf5 import check_video_id, reading
from avfusion.errors import InputError
from avfusion.files import atomic_path

Segments = NDArray[np.float64]  # (N, 2): start and end in seconds


@dataclass(frozen=True, eq=False)
class RankedProposals:
    """Candidate segments of one video that a detector proposes, best first, without classes.

    Attributes:
        segments: float64 (N, 2), start and end in seconds.
        scores: float64 (N,), falling.
    """

    segments: Segments
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.segments.shape != (len(self.scores), 2):
            raise ValueError(f"{len(self.scores)} scores do not fit segments of {self.segments.shape}")

    def __len__(self) -> int:
        return len(self.scores)


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


def write_proposals(
    path: str | Path, proposals: Mapping[str, Segments | RankedProposals], source: str
) -> None:
    """Write proposals per video to HDF5, atomically; `source` says what made them."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["source"] = source
        for video, value in proposals.items():
            check_video_id(path, video)
            if isinstance(value, RankedProposals):
                table = np.column_stack([value.segments, value.scores])
            else:
                table = np.asarray(value, dtype=np.float64).reshape(-1, 2)
            file.create_dataset(video, data=table.astype(np.float64))


def read_proposals(path: str | Path, best: int | None = None) -> dict[str, Segments]:
    """Read what `write_proposals` wrote, without the scores.

    Args:
        path: the file.
        best: number of proposals per video to take, from the first one on; None: all.

    Raises:
        InputError: no HDF5 file, a dataset of another shape, or a segment that ends before it starts.
    """
    return {video: table[:best, :2] for video, table in _read_tables(path).items()}


def read_ranked(path: str | Path) -> dict[str, RankedProposals]:
    """Read what `write_proposals` wrote of ranked proposals.

    Raises:
        InputError: as `read_proposals`; or the proposals have no scores.
    """
    tables = _read_tables(path)
    for video, table in tables.items():
        if table.shape[1] != 3:
            raise InputError(path, "its proposals have no scores", video)
    return {video: RankedProposals(table[:, :2], table[:, 2]) for video, table in tables.items()}


def _read_tables(path: str | Path) -> dict[str, NDArray[np.float64]]:
    with reading(path, "proposals") as file:
        tables = {video: np.asarray(file[video][()], dtype=np.float64) for video in file}
    for video, table in tables.items():
        if table.ndim != 2 or table.shape[1] not in (2, 3):
            raise InputError(path, f"shape {table.shape}, expected (N, 2) or (N, 3)", video)
        if not (np.isfinite(table).all() and (table[:, 1] > table[:, 0]).all()):
            raise InputError(path, "holds a segment that is not finite or ends before it starts", video)
    return tables
