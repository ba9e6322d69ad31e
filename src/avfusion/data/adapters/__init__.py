"""One module per format of annotations. Each has ``read(paths, build, options)``, which fills a `Builder`.

`FORMATS` names them; the name is what ``annotations: {format: NAME}`` says. docs/datasets.md is the guide.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avfusion.data.adapters import activitynet, csv_table, muses, thumos14, thumos14_tables
from avfusion.data.builder import Builder
from avfusion.errors import InputError, known_names

Read = Callable[[Sequence[Path], Builder, Mapping[str, Any]], None]
FORMATS: dict[str, Read] = {
    "activitynet": activitynet.read,
    "csv": csv_table.read,
    "muses": muses.read,
    "thumos14": thumos14.read,
    "thumos14-tables": thumos14_tables.read,
}


def guess(paths: Sequence[Path]) -> str:
    """The format of files, by what they are called: a folder holds tables, a ZIP archive THUMOS14's texts."""
    first = paths[0]
    if first.is_dir():
        return "thumos14" if any(first.rglob("*_test.txt")) else "thumos14-tables"
    name = first.name.lower().removesuffix(".gz")
    return {".csv": "csv", ".tsv": "csv", ".zip": "thumos14"}.get(Path(name).suffix, "activitynet")


def reader(name: str, source: str | Path) -> Read:
    """The reader of a format.

    Raises:
        InputError: there is no such format.
    """
    if name not in FORMATS:
        raise InputError(
            source, f"there is no format '{name}'{known_names(name, FORMATS)}", "annotations.format"
        )
    return FORMATS[name]
