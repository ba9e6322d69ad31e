"""The manifest: a row for every video of a dataset, usable or not, and the reason when not."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, get_type_hints

from avfusion.data.annotations import Annotations
from avfusion.data.tables import parse_csv, read_text
from avfusion.errors import InputError
from avfusion.files import write_text

OK = "ok"


@dataclass(frozen=True)
class ManifestRow:
    """What is known of one video.

    Attributes:
        id: name that annotations and detections use.
        subset: subset of the dataset, as the annotations name it ("train", "test", ...).
        path: media file, relative to the working directory of the workflow.
        duration: seconds; 0 if unknown.
        fps: average frame rate of the video track; 0 if there is none.
        frames: number of frames of the video track; 0 if there is none.
        has_audio: whether there is a sound track.
        sample_rate: of the sound track in Hz; 0 if there is none.
        sha256: of the media file; empty if it could not be read.
        status: "ok", or why this video is left out.
    """

    id: str
    subset: str
    path: str
    duration: float = 0.0
    fps: float = 0.0
    frames: int = 0
    has_audio: bool = False
    sample_rate: int = 0
    sha256: str = ""
    status: str = OK

    @property
    def ok(self) -> bool:
        """Whether the video can be used."""
        return self.status == OK


FORMS: dict[str, type] = get_type_hints(ManifestRow)
COLUMNS = tuple(FORMS)
MEANT = {float: "number of 0 or more", int: "whole number of 0 or more", bool: "0 or 1", str: "text"}


def write_manifest(path: str | Path, rows: Iterable[ManifestRow]) -> None:
    """Write the rows as a TSV with a header line, atomically, in the order given."""
    text = StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = (getattr(row, name) for name in COLUMNS)
        writer.writerow(_to_cell(value, form) for value, form in zip(values, FORMS.values(), strict=True))
    write_text(path, text.getvalue())


def read_manifest(path: str | Path) -> list[ManifestRow]:
    """Read a manifest TSV.

    Raises:
        InputError: no such file, a missing column, a cell that does not hold what it should, or a video id
            that occurs twice; with its line and column.
    """
    table = parse_csv(path, read_text(path), {name: (name,) for name in COLUMNS}, delimiter="\t")
    rows: list[ManifestRow] = []
    seen: set[str] = set()
    for index, cells in enumerate(zip(*(table.columns[name] for name in COLUMNS), strict=True)):
        values = {}
        for (name, form), cell in zip(FORMS.items(), cells, strict=True):
            try:
                values[name] = _from_cell(cell, form)
            except ValueError as error:
                where = f"{table.line(index)}, column {name}"
                raise InputError(path, f"'{cell}' is no {MEANT[form]}", where) from error
        row = ManifestRow(**values)
        if not row.id or row.id in seen:
            problem = f"video id '{row.id}' occurs twice" if row.id else "the video id is empty"
            raise InputError(path, problem, f"{table.line(index)}, column id")
        seen.add(row.id)
        rows.append(row)
    return rows


def _to_cell(value: Any, form: type) -> str:
    if form is str:
        return " ".join(value.split()) if "\n" in value or "\t" in value else value
    return repr(float(value)) if form is float else str(int(value))  # not numpy's repr


def _from_cell(cell: str, form: type) -> Any:
    if form is bool:
        return bool(("0", "1").index(cell))
    value = form(cell)
    if form is not str and not 0 <= value < float("inf"):
        raise ValueError(cell)
    return value


def rows_of_annotations(annotations: Annotations, subsets: Iterable[str]) -> list[ManifestRow]:
    """Rows of videos of which there are annotations and features, but no media.

    A video whose length the annotations do not tell is left out for that reason.

    Raises:
        InputError: the annotations know no such subset.
    """
    return [
        ManifestRow(
            name,
            subset,
            path="",
            duration=value.duration or 0.0,
            status=OK if value.duration else "the annotations do not say how long it is",
        )
        for subset in subsets
        for name, value in annotations.subset(subset).videos.items()
    ]


def count_silent(path: str | Path, subset: str) -> tuple[int, int]:
    """How many videos of a subset can be used and have no sound, and how many can be used.

    Videos without media, of which nobody knows, count as heard.
    """
    usable = [row for row in read_manifest(path) if row.ok and row.subset == subset]
    return sum(bool(row.path) and not row.has_audio for row in usable), len(usable)


def shard_of(rows: list[ManifestRow], shard: int, shards: int) -> list[ManifestRow]:
    """Rows of one of `shards` shards: every `shards`-th row, beginning with row `shard`."""
    if not 0 <= shard < shards:
        raise ValueError(f"there is no shard {shard} of {shards}")
    return rows[shard::shards]
