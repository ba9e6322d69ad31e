"""What a two-stage detector says of every proposal: the artefact that decision fusion merges.

On disk: HDF5, a group per video with float64 ``proposals`` (N, 2) in seconds and float32 ``activity``
(N, K + 1), ``completeness`` (N, K), ``regression`` (N, K, 2); the file's attribute ``labels`` is the JSON
list of the K class names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from avfusion.data.hdf5 import check_video_id, reading
from avfusion.errors import InputError
from avfusion.files import atomic_path


@dataclass(frozen=True)
class ProposalScores:
    """Scores of the N proposals of one video for K classes.

    Attributes:
        proposals: float64 (N, 2), start and end in seconds.
        activity: float32 (N, K + 1), logits; column 0 is background.
        completeness: float32 (N, K), logits.
        regression: float32 (N, K, 2), shift of the centre in units of the proposal's length and change of
            the logarithm of the length, in real units (already de-normalised).
    """

    proposals: NDArray[np.float64]
    activity: NDArray[np.float32]
    completeness: NDArray[np.float32]
    regression: NDArray[np.float32]

    def __post_init__(self) -> None:
        n, k = self.completeness.shape
        shapes = {"proposals": (n, 2), "activity": (n, k + 1), "regression": (n, k, 2)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                found = getattr(self, name).shape
                raise ValueError(f"{name} has shape {found}; {n} proposals and {k} classes need {shape}")


def write_scores(path: str | Path, scores: Mapping[str, ProposalScores], labels: Sequence[str]) -> None:
    """Write the scores of every video to HDF5, atomically."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["labels"] = json.dumps(list(labels))
        for video, value in scores.items():
            group = file.create_group(check_video_id(path, video))
            group["proposals"] = value.proposals.astype(np.float64)
            for name in ("activity", "completeness", "regression"):
                group[name] = getattr(value, name).astype(np.float32)


def read_scores(path: str | Path) -> tuple[dict[str, ProposalScores], list[str]]:
    """Read what `write_scores` wrote: scores per video, and the class names.

    Raises:
        InputError: no HDF5 file, or not one of scores, or scores of another number of classes than named.
    """
    names = ("proposals", "activity", "completeness", "regression")
    with reading(path, "proposal scores") as file:
        labels = json.loads(file.attrs["labels"])
        scores = {video: ProposalScores(*(file[video][name][()] for name in names)) for video in file}
    for video, value in scores.items():
        if value.completeness.shape[1] != len(labels):
            problem = f"{value.completeness.shape[1]} classes are scored, but {len(labels)} are named"
            raise InputError(path, problem, video)
    return scores, labels
