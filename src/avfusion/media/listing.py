"""Which file holds which video: a table per shard, made before anything is opened.

On disk: TSV with the columns id, subset, path, bytes, modified. `path` is empty where a dataset has no
such file; `bytes` and `modified` (seconds since 1970) tell a replaced file from the one it replaces.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from io import StringIO
from pathlib import Path

from avfusion.data.annotations import Annotations
from avfusion.errors import InputError
from avfusion.files import write_text

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv")


@dataclass(frozen=True)
class ListedVideo:
    """One video of a dataset and the file that should hold it."""

    id: str
    subset: str
    path: str
    bytes: int = 0
    modified: float = 0.0


COLUMNS = tuple(field.name for field in fields(ListedVideo))


def list_videos(
    annotations: Annotations,
    subsets: Iterable[str],
    files: Mapping[str, Path],
    shard: int = 0,
    shards: int = 1,
) -> list[ListedVideo]:
    """List every `shards`-th annotated video of `subsets`, beginning with number `shard`.

    Args:
        annotations: of the whole dataset.
        subsets: those that count; videos stand in their order, and within one in that of the annotations.
        files: file by video id (`find_files`); a video without one is listed with an empty path.

    Raises:
        InputError: the annotations know no such subset.
    """
    videos = [(name, subset) for subset in subsets for name in annotations.subset(subset).videos]
    return [
        _listed(name, subset, files.get(name) or files.get(f"v_{name}"))  # as ActivityNet's files are named
        for name, subset in videos[shard::shards]
    ]


def find_files(folder: str | Path) -> dict[str, Path]:
    """Media files in `folder` and its sub-folders by their name without suffix, which is the video's id.

    Raises:
        InputError: no such folder, no media file in it, or two files for one id.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            folder, "there is no such folder; put the videos there, one file per video, named by its id"
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise InputError(
                    folder, f"{found[path.stem].name} and {path.name} both claim to be it", path.stem
                )
            found[path.stem] = path
    if not found:
        raise InputError(
            folder, f"holds no video ({', '.join(SUFFIXES)}); put them there, named by their ids"
        )
    return found


def write_listing(path: str | Path, videos: Iterable[ListedVideo]) -> None:
    """Write the table, atomically."""
    text = StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(astuple, videos))
    write_text(path, text.getvalue())


def read_listing(path: str | Path) -> list[ListedVideo]:
    """Read what `write_listing` wrote.

    Raises:
        InputError: it is no such table.
    """
    with Path(path).open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(path, f"must have the columns {', '.join(COLUMNS)}", "line 1")
        return [
            ListedVideo(row["id"], row["subset"], row["path"], int(row["bytes"]), float(row["modified"]))
            for row in reader
        ]


def _listed(name: str, subset: str, path: Path | None) -> ListedVideo:
    if path is None:
        return ListedVideo(name, subset, "")
    status = path.stat()
    return ListedVideo(name, subset, str(path), status.st_size, round(status.st_mtime, 3))
