"""A table of instances: CSV with the columns video, label, start, end, and perhaps subset and duration.

Times are seconds (12.5) or clock times (0:12.5, 1:02:12.5). A video may be named by its file (clip.mp4). A
row with neither label nor times names a video in which nothing happens. The delimiter is a comma, a semicolon
or a tab, whichever the header has most of.
"""

import codecs
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path, PurePath
from typing import Any

from avfusion.data.builder import Builder
from avfusion.data.tables import number, read_bytes
from avfusion.errors import InputError

COLUMNS = {
    "video": ("video", "video_id", "video-id", "id", "name", "file", "filename"),
    "label": ("label", "class", "type", "action", "category"),
    "start": ("start", "start_time", "t_start", "t-start", "begin", "from"),
    "end": ("end", "end_time", "t_end", "t-end", "stop", "to"),
    "subset": ("subset", "split", "set"),
    "duration": ("duration", "length"),
}
NEEDED = ("video", "label", "start", "end")
DELIMITERS = ",;\t"
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
MEDIA = re.compile(r"\.(mp4|mkv|webm|avi|mov|m4v|mpe?g|ts|flv|wmv|ogv)$", re.IGNORECASE)
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(paths: Sequence[Path], build: Builder, options: Mapping[str, Any]) -> None:
    """Read the table at ``paths[0]``. Videos without a subset are in the subset "". No options.

    Raises:
        InputError: it is no such table.
    """
    (path,) = paths
    build.source = str(path)
    text = _text(path, build)
    delimiter = max(DELIMITERS, key=text.partition("\n")[0].count)
    rows = csv.reader(StringIO(text, newline=""), delimiter=delimiter)
    header = [name.strip().lower() for name in next(rows, [])]
    places = {
        column: next((header.index(name) for name in names if name in header), None)
        for column, names in COLUMNS.items()
    }
    if missing := [column for column in NEEDED if places[column] is None]:
        problem = f"no column {', '.join(missing)}; the header is '{text.partition(chr(10))[0][:200]}'"
        raise InputError(path, problem, "line 1")
    for line, cells in _rows(rows, len(header), build):
        row = {column: "" if k is None else cells[k].strip() for column, k in places.items()}
        _read_row(f"line {line}", row, build)


def seconds(text: str) -> float | None:
    """Seconds of "12.5", "0:12.5" or "1:02:12.5"; None if it is neither.

    Clock times count from 00:00:00 and may have a fraction of a second.
    """
    found = CLOCK.fullmatch(text)
    if not found:
        return number(text)
    hours, minutes, rest = int(found[1] or 0), int(found[2]), float(found[3])
    return None if minutes > 59 or rest >= 60 else 3600 * hours + 60 * minutes + rest


def _read_row(where: str, row: Mapping[str, str], build: Builder) -> None:
    video = MEDIA.sub("", PurePath(row["video"].replace("\\", "/")).name)
    duration = seconds(row["duration"]) if row["duration"] else None
    if row["duration"] and duration is None:
        build.refuse(f"{where}, column duration", f"'{row['duration']}' is no time")
    build.video(where, video, row["subset"], duration)
    given = [row[column] for column in ("label", "start", "end")]
    if not any(given) or not video:
        return
    if not row["label"]:
        build.refuse(f"{where}, column label", "is empty")
    times = {column: seconds(row[column]) for column in ("start", "end")}
    for column, value in times.items():
        if value is None:
            problem = f"'{row[column]}' is no time; write seconds (75.5) or h:mm:ss (0:01:15.5)"
            build.refuse(f"{where}, column {column}", problem)
    start, end = times["start"], times["end"]
    if row["label"] and start is not None and end is not None:
        build.instance(where, video, row["label"], start, end)


def _rows(reader: Any, width: int, build: Builder) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of every row that has as many as the header."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            build.refuse(f"line {reader.line_num}", f"is no CSV text ({error})")
            continue
        if any(cell.strip() for cell in cells):
            if len(cells) == width:
                yield reader.line_num, cells
            else:
                build.refuse(f"line {reader.line_num}", f"{len(cells)} cells, but the header has {width}")


def _text(path: Path, build: Builder) -> str:
    """The text. Lines that are not UTF-8 are reported, and read all the same to find what else is wrong."""
    content = read_bytes(path)
    if content.startswith(UTF16):
        raise InputError(path, "is UTF-16 text: save it as UTF-8", "line 1")
    lines = []
    for index, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError as error:
            byte = line[error.start]
            build.refuse(f"line {index}", f"is not UTF-8 text (byte 0x{byte:02x}): save the file as UTF-8")
            lines.append(line.decode("latin-1"))
    return "\n".join(lines).replace("\r\n", "\n")
