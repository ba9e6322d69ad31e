"""How likely every class is, for a whole video or for each of its proposals; for proposals without classes.

Read are

- JSON of video-level scores, as other networks give them: ``{video: {label: score}}``, or
  ``{"results": {video: [{"label", "score"}]}}``; a label that is not named has the score 0;
- HDF5 of what a detector's own classifier says: a float64 dataset per video, (K,) or a row per proposal
  (N, K); the file's attribute ``labels`` is the JSON list of the K class names.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from avfusion.data.hdf5 import check_video_id, reading
from avfusion.data.tables import number, parse_json, read_text
from avfusion.errors import InputError, known_names
from avfusion.files import atomic_path

ClassScores = NDArray[np.float64]  # (K,) of a video, or (N, K) of its proposals


def write_class_scores(path: str | Path, scores: Mapping[str, ClassScores], labels: Sequence[str]) -> None:
    """Write scores by video to HDF5, atomically; `labels` names the K classes."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["labels"] = json.dumps(list(labels))
        for video, value in scores.items():
            file[check_video_id(path, video)] = np.asarray(value, dtype=np.float64)


def read_class_scores(path: str | Path, labels: Sequence[str]) -> dict[str, ClassScores]:
    """Scores by video, in the order of `labels`; the content of the file tells its format.

    Raises:
        InputError: the file cannot be read, names a class that `labels` does not hold (HDF5: other classes),
            or holds a score that is no finite number, with the field.
    """
    if h5py.is_hdf5(path):
        return _from_hdf5(path, labels)
    return _from_json(path, parse_json(path, read_text(path)), {label: k for k, label in enumerate(labels)})


def class_names(path: str | Path) -> list[str]:
    """The classes that an HDF5 file of class scores names.

    Raises:
        InputError: it is no such file.
    """
    with reading(path, "class scores") as file:
        return list(json.loads(file.attrs["labels"]))


def _from_hdf5(path: str | Path, labels: Sequence[str]) -> dict[str, ClassScores]:
    with reading(path, "class scores") as file:
        named = json.loads(file.attrs["labels"])
        scores = {video: np.asarray(file[video][()], dtype=np.float64) for video in file}
    if named != list(labels):
        raise InputError(path, f"scores {len(named)} classes other than the {len(labels)} wanted", "labels")
    for video, value in scores.items():
        if value.ndim not in (1, 2) or value.shape[-1] != len(labels):
            problem = f"shape {value.shape}, expected ({len(labels)},) or (N, {len(labels)})"
            raise InputError(path, problem, video)
        if not np.isfinite(value).all():
            raise InputError(path, "holds a score that is not finite", video)
    return scores


def _from_json(path: str | Path, content: Any, index: Mapping[str, int]) -> dict[str, ClassScores]:
    nested = isinstance(content, dict) and isinstance(content.get("results"), dict)
    videos = content["results"] if nested else content
    if not isinstance(videos, dict):
        raise InputError(path, "must be an object that maps video ids to scores by label")
    scores = {}
    for video, given in videos.items():
        place = f"results.{video}" if nested else str(video)
        scores[video] = np.zeros(len(index))
        for label, score, field in _entries(path, given, place):
            if label not in index:
                raise InputError(path, f"there is no class '{label}'{known_names(str(label), index)}", field)
            value = number(score)
            if value is None:
                raise InputError(path, f"must be a finite number, not {score!r}", field)
            scores[video][index[label]] = value
    return scores


def _entries(path: str | Path, given: Any, place: str) -> Iterator[tuple[Any, Any, str]]:
    """Label, score and place of everything that is said of a video."""
    if isinstance(given, dict):
        for label, score in given.items():
            yield label, score, f"{place}.{label}"
    elif isinstance(given, list):
        for k, row in enumerate(given):
            if not (isinstance(row, dict) and {"label", "score"} <= set(row)):
                raise InputError(path, "must be an object with label and score", f"{place}[{k}]")
            yield row["label"], row["score"], f"{place}[{k}]"
    else:
        raise InputError(path, "must be scores by label, or a list of label and score", place)
