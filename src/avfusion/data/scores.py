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


def write_scores(path: str | Path, scores: Mapping[str, ProposalScores], labels: Sequence[str]) -> None:
    """Write the scores of every video to HDF5, atomically."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["labels"] = json.dumps(list(labels))
        for video, value in scores.items():
            group = file.create_group(video)
            group["proposals"] = value.proposals.astype(np.float64)
            for name in ("activity", "completeness", "regression"):
                group[name] = getattr(value, name).astype(np.float32)


def read_scores(path: str | Path) -> tuple[dict[str, ProposalScores], list[str]]:
    """Read what `write_scores` wrote: scores per video, and the class names.

    Raises:
        InputError: no HDF5 file, or not one of scores.
    """
    names = ("proposals", "activity", "completeness", "regression")
    try:
        with h5py.File(path, "r") as file:
            labels = json.loads(file.attrs["labels"])
            return {v: ProposalScores(*(file[v][name][()] for name in names)) for v in file}, labels
    except (OSError, KeyError) as error:
        raise InputError(path, f"cannot be read as HDF5 proposal scores ({error})") from error
