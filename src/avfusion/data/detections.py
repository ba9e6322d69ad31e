"""Detected actions: a class, a segment in seconds and a score, for any number of videos.

Two formats are read, either of them gzipped:

- the ActivityNet submission JSON, ``{"results": {video: [{"label", "score", "segment": [start, end]}]}}``,
- CSV with a header and the columns video_id, label, start, end, score (others are ignored).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avfusion.data.tables import number, parse_csv, parse_json, read_text
from avfusion.errors import InputError
from avfusion.files import write_json

CSV_COLUMNS = {
    "video": ("video_id", "video-id", "video"),
    "label": ("label",),
    "start": ("start", "t-start"),
    "end": ("end", "t-end"),
    "score": ("score",),
}
SEGMENT = "segment"
logger = logging.getLogger("avfusion")


def _row(index: int, column: str) -> str:
    return f"row {index}, {column}"


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of many videos in columns, in the order of the file (ties in score are broken by it).

    Attributes:
        videos: ids of the videos that occur, or that were looked at and have no detections.
        labels: names of the classes.
        video: int (N,), index into `videos`.
        label: int (N,), index into `labels`.
        start: float64 (N,), seconds.
        end: float64 (N,), seconds; a segment that ends before it starts meets no instance.
        score: float64 (N,), larger is surer; any finite range.
        source: the file, for messages.
        place: where detection i stands in the file, for messages: called with i and one of
            "label", "segment", "score".
    """

    videos: tuple[str, ...]
    labels: tuple[str, ...]
    video: NDArray[np.int64]
    label: NDArray[np.int64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    score: NDArray[np.float64]
    source: str = "detections"
    place: Callable[[int, str], str] = field(default=_row, repr=False)

    def __post_init__(self) -> None:
        shapes = {column.shape for column in (self.video, self.label, self.start, self.end, self.score)}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            raise ValueError("the columns of detections must be one-dimensional and equally long")
        self._refuse(~(np.isfinite(self.start) & np.isfinite(self.end)), SEGMENT, "is not finite")
        self._refuse(~np.isfinite(self.score), "score", "is not finite")

    def _refuse(self, wrong: NDArray[np.bool_], column: str, problem: str) -> None:
        if not wrong.any():
            return
        i = int(wrong.argmax())
        value = f"{self.score[i]:g}" if column == "score" else f"[{self.start[i]:g}, {self.end[i]:g}]"
        raise InputError(self.source, f"the {column} {value} {problem}", self.place(i, column))

    def __len__(self) -> int:
        return len(self.score)


def read_detections(path: str | Path) -> Detections:
    """Read a submission JSON or a CSV of detections (see the module's text); the content tells which.

    Segments that end before they start are kept, as false positives (the published evaluators count them so),
    with one warning for all of them.

    Raises:
        InputError: the file cannot be read, a field or column is missing, or a value is no finite number;
            with the line or the field.
    """
    text = read_text(path)
    is_json = text.lstrip()[:1] in ("{", "[")
    detections = _from_json(path, parse_json(path, text)) if is_json else _from_csv(path, text)
    _warn_of_reversed(detections)
    return detections


def _warn_of_reversed(detections: Detections) -> None:
    rows = np.flatnonzero(detections.end < detections.start)
    if rows.size:
        where = f"{detections.source}: {detections.place(int(rows[0]), SEGMENT)}"
        segment = f"[{detections.start[rows[0]]:g}, {detections.end[rows[0]]:g}]"
        more = f" (and {rows.size - 1} more like it)" if rows.size > 1 else ""
        logger.warning("%s: %s ends before it starts%s; counts as false positive", where, segment, more)


def write_detections(path: str | Path, detections: Detections) -> None:
    """Write a submission JSON, atomically; videos without detections have an empty list."""
    results: dict[str, list[dict[str, Any]]] = {video: [] for video in detections.videos}
    columns = (detections.video, detections.label, detections.score, detections.start, detections.end)
    for video, label, score, start, end in zip(*(column.tolist() for column in columns), strict=True):
        results[detections.videos[video]].append(
            {"label": detections.labels[label], "score": score, "segment": [start, end]}
        )
    write_json(path, {"version": "AVFusion 1", "results": results, "external_data": {}})


def _from_csv(path: str | Path, text: str) -> Detections:
    table = parse_csv(path, text, CSV_COLUMNS)
    videos, video = _index(table.names("video"))
    labels, label = _index(table.names("label"))
    start, end, score = (table.numbers(column) for column in ("start", "end", "score"))

    def place(index: int, column: str) -> str:
        return table.line(index)

    return Detections(videos, labels, video, label, start, end, score, str(path), place)


def _from_json(path: str | Path, content: Any) -> Detections:
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise InputError(path, "must be an object that maps video ids to lists of detections", "results")
    videos = tuple(results)
    owner: list[int] = []
    position: list[int] = []
    names: list[str] = []
    numbers: list[tuple[float, float, float]] = []
    for index, (video, rows) in enumerate(results.items()):
        if not isinstance(rows, list):
            raise InputError(path, "must be a list of detections", f"results.{video}")
        for k, row in enumerate(rows):
            try:
                start, end = row["segment"]
                numbers.append((float(start), float(end), float(row["score"])))
                names.append(row["label"])
            except (KeyError, TypeError, ValueError, OverflowError):
                raise _wrong_row(path, f"results.{video}[{k}]", row) from None
        owner += [index] * len(rows)
        position += range(len(rows))
    if not all(isinstance(name, str) and name for name in names):
        k = next(k for k, name in enumerate(names) if not (isinstance(name, str) and name))
        raise InputError(
            path, "must be the name of a class", f"results.{videos[owner[k]]}[{position[k]}].label"
        )
    labels, label = _index(names)
    start, end, score = np.array(numbers, dtype=np.float64).reshape(-1, 3).T.copy()
    video_index = np.array(owner, dtype=np.int64)

    def place(index: int, column: str) -> str:
        return f"results.{videos[owner[index]]}[{position[index]}].{column}"

    return Detections(videos, labels, video_index, label, start, end, score, str(path), place)


def _wrong_row(path: str | Path, where: str, row: Any) -> InputError:
    """Which of the fields of a detection cannot be used."""
    if not isinstance(row, dict):
        return InputError(path, "must be an object with label, score and segment", where)
    for name in ("label", "score", SEGMENT):
        if name not in row:
            return InputError(path, "is missing", f"{where}.{name}")
    if number(row["score"]) is None:
        return InputError(path, f"must be a number, not {row['score']!r}", f"{where}.score")
    return InputError(path, f"must be [start, end] in seconds, not {row['segment']!r}", f"{where}.segment")


def _index(names: Sequence[str] | Iterable[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Distinct names in order of appearance, and the index of each name among them."""
    seen: dict[str, int] = {}
    index = [seen.setdefault(name, len(seen)) for name in names]
    return tuple(seen), np.array(index, dtype=np.int64)
