"""The manifest: a row for every video of a dataset, usable or not, and the reason when not."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path

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


COLUMNS = tuple(field.name for field in fields(ManifestRow))


def write_manifest(path: str | Path, rows: Iterable[ManifestRow]) -> None:
    """Write the rows as a TSV with a header line, atomically, in the order given."""
    text = StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = asdict(row) | {"has_audio": int(row.has_audio)}
        writer.writerow(
            " ".join(str(value).split()) if isinstance(value, str) else repr(value)
            for value in values.values()
        )
    write_text(path, text.getvalue())


def read_manifest(path: str | Path) -> list[ManifestRow]:
    """Read a manifest TSV.

    Raises:
        InputError: a missing column, a value that is no number, or a video id that occurs twice.
    """
    with Path(path).open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise InputError(path, f"columns missing: {', '.join(sorted(missing))}", "line 1")
        rows: list[ManifestRow] = []
        seen: set[str] = set()
        for record in reader:
            where = f"line {reader.line_num}"
            if record["id"] in seen:
                raise InputError(path, f"video id '{record['id']}' occurs twice", where)
            seen.add(record["id"])
            rows.append(_row(path, where, record))
    return rows


def _row(path: str | Path, where: str, record: dict[str, str]) -> ManifestRow:
    try:
        return ManifestRow(
            id=record["id"],
            subset=record["subset"],
            path=record["path"],
            duration=float(record["duration"]),
            fps=float(record["fps"]),
            frames=int(record["frames"]),
            has_audio=bool(int(record["has_audio"])),
            sample_rate=int(record["sample_rate"]),
            sha256=record["sha256"],
            status=record["status"],
        )
    except (TypeError, ValueError) as error:
        raise InputError(path, f"a column does not hold what it should ({error})", where) from error


def shard_of(rows: list[ManifestRow], shard: int, shards: int) -> list[ManifestRow]:
    """Rows of one of `shards` shards: every `shards`-th row, beginning with row `shard`."""
    return rows[shard::shards]
