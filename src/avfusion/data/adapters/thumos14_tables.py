"""THUMOS14 as tables, as G-TAD and AFSD keep it: a folder with two files per subset.

``<subset>_Annotation.csv`` has the columns video, type, start, end (in seconds), ``<subset>_video_info.csv``
video, fps, count, whence the duration. 'Ambiguous' rows are dropped; a video that has only such rows stays,
without instances.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avfusion.data.adapters import thumos14
from avfusion.data.builder import Builder
from avfusion.data.tables import parse_csv, read_text
from avfusion.errors import InputError

TABLE_SUFFIX, INFO_SUFFIX = "_Annotation.csv", "_video_info.csv"


def read(paths: Sequence[Path], build: Builder, options: Mapping[str, Any]) -> None:
    """Read every table of the folder ``paths[0]``.

    Args:
        options: those of `avfusion.data.adapters.thumos14.Thumos14Options`.

    Raises:
        InputError: there is none, or one is no such table.
    """
    (folder,) = paths
    tables = sorted(folder.glob(f"*{TABLE_SUFFIX}"))
    if not tables:
        problem = f"holds no <subset>{TABLE_SUFFIX}; name an ActivityNet JSON or such a folder"
        raise InputError(folder, problem)
    chosen = thumos14.choose(options, str(folder))
    for table in tables:
        _read_subset(folder, table, build, chosen)
    build.source = str(folder)
    chosen.settle(build)


def _read_subset(folder: Path, table: Path, build: Builder, options: thumos14.Thumos14Options) -> None:
    subset = table.name.removesuffix(TABLE_SUFFIX)
    wanted = {name: (name,) for name in ("video", "type", "start", "end")}
    rows = parse_csv(table, read_text(table), wanted)
    info = folder / f"{subset}{INFO_SUFFIX}"
    durations = _read_durations(info) if info.exists() else {}
    build.source = str(table)
    for video, duration in durations.items():
        if not options.excludes(video):
            build.video(video, video, subset, duration)
    cells = zip(
        rows.names("video"), rows.names("type"), rows.numbers("start"), rows.numbers("end"), strict=True
    )
    for index, (video, label, start, end) in enumerate(cells):
        options.add(build, rows.line(index), (video, subset, label), float(start), float(end))


def _read_durations(info: Path) -> dict[str, float]:
    rows = parse_csv(info, read_text(info), {name: (name,) for name in ("video", "fps", "count")})
    durations = {}
    for index, (video, fps, count) in enumerate(
        zip(rows.names("video"), rows.numbers("fps"), rows.numbers("count"), strict=True)
    ):
        if not (fps > 0 and count > 0):
            raise InputError(info, "fps and count must be above 0", rows.line(index))
        durations[video] = float(count / fps)
    return durations
