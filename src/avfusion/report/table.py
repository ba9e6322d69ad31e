"""The result table: one row per experiment, as a TSV for programs and in columns for people.

Columns: experiment, detector, streams (joined by +), fusion, ``mAP@<tIoU>`` for every threshold and
``average`` over them (percent, mean over the seeds), spread (standard deviation of the average over several
seeds), seeds (with blanks between), videos (with detections / in the subset), reference (published mAP at the
same thresholds with blanks between, - where none is known), note, protocol, version (of AVFusion).

``python -m avfusion.report.table FILE`` prints such a file.
"""

import csv
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import avfusion
from avfusion.data.tables import read_text
from avfusion.files import write_text
from avfusion.report.results import Result, ResultRow, load_results

BELOW = ("note", "protocol", "version")

__all__ = ["ResultRow", "format_table", "write_table"]


def write_table(path: str | Path, rows: Sequence[ResultRow]) -> None:
    """Write the table of all rows as a TSV, atomically, in the order given.

    Raises:
        InputError: an evaluation is missing or damaged, or two of them cannot stand in one table (other
            thresholds, another ground truth).
    """
    results = load_results(rows)
    text = StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(
        [
            *("experiment", "detector", "streams", "fusion"),
            *(f"mAP@{tiou:g}" for tiou in results[0].tiou),
            *("average", "spread", "seeds", "videos", "reference", "note", "protocol", "version"),
        ]
    )
    for result in results:
        writer.writerow(_cells(result))
    write_text(path, text.getvalue())


def format_table(path: str | Path) -> str:
    """The table in aligned columns for a terminal.

    Columns that are empty throughout are left out, and texts that all rows share stand below, once.
    """
    rows = list(csv.reader(read_text(path).splitlines(), delimiter="\t"))
    everything = [column for column in zip(*rows, strict=True) if any(column[1:])]
    shared = [column for column in everything if column[0] in BELOW and len(set(column[1:])) == 1]
    columns = [column for column in everything if column not in shared]
    widths = [max(map(len, column)) for column in columns]
    lines = (
        "  ".join(
            cell.rjust(width) if _is_number(column[1]) else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        for row in zip(*columns, strict=True)
    )
    notes = (f"{column[0]}: {column[1]}" for column in shared)
    return "\n".join(line.rstrip() for line in (*lines, *notes))


def _cells(result: Result) -> list[str]:
    row, protocol = result.row, result.protocol
    spread = result.average_spread
    return [
        *(row.experiment, row.detector, "+".join(row.streams), row.fusion),
        *(f"{value:.2f}" for value in result.percent),
        f"{result.average:.2f}",
        "" if spread is None else f"{spread:.2f}",
        " ".join(map(str, result.seeds)),
        f"{protocol['videos_with_detections']}/{protocol['videos']}",
        " ".join("-" if value is None else f"{value:.2f}" for value in row.reference or ()),
        " ".join(row.note.split()),
        f"{protocol['instances']} instances of {protocol['classes']} classes in {protocol['videos']} videos "
        f"of '{protocol['subset']}', time in {protocol['time_base']}, AP over {protocol['interpolation']}",
        avfusion.__version__,
    ]


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).isdigit()


if __name__ == "__main__":
    sys.stdout.write(format_table(sys.argv[1]) + "\n")
