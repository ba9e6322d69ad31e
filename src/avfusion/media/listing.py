"""Which file holds which video: a table per shard, made before anything is opened.

On disk: TSV with the columns id, subset, path, bytes, modified, reason. `path` is empty where a dataset has
no such file, and `reason` may say why; `bytes` and `modified` (seconds since 1970) tell a replaced file from
the one it replaces.
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
    reason: str = ""


COLUMNS = tuple(field.name for field in fields(ListedVideo))


def list_videos(
    annotations: Annotations,
    subsets: Iterable[str],
    files: Mapping[str, Path],
    shard: int = 0,
    shards: int = 1,
    reasons: Mapping[str, str] | None = None,
) -> list[ListedVideo]:
    """List every `shards`-th annotated video of `subsets`, beginning with number `shard`.

    Args:
        annotations: of the whole dataset.
        subsets: those that count; videos stand in their order, and within one in that of the annotations.
        files: file by video id (`find_files`); a video without one is listed with an empty path.
        reasons: by video id, why there is no file.

    Raises:
        InputError: the annotations know no such subset.
    """
    return [
        _listed(name, subset, file_of(name, files), (reasons or {}).get(name, ""))
        for name, subset in videos_of(annotations, subsets, shard, shards)
    ]


def videos_of(
    annotations: Annotations, subsets: Iterable[str], shard: int = 0, shards: int = 1
) -> list[tuple[str, str]]:
    """Id and subset of the videos of a shard."""
    videos = [(name, subset) for subset in subsets for name in annotations.subset(subset).videos]
    return videos[shard::shards]


def file_of(video: str, files: Mapping[str, Path]) -> Path | None:
    """The file of a video, which may be called ``v_ID``, as ActivityNet's are."""
    return files.get(video) or files.get(f"v_{video}")


def find_files(folder: str | Path, may_be_empty: bool = False) -> dict[str, Path]:
    """Media files in `folder` and its sub-folders by their name without suffix, which is the video's id.

    Args:
        may_be_empty: it is no error if the folder holds nothing, or is not there.

    Raises:
        InputError: no such folder, no media file in it, or two files for one id.
    """
    folder = Path(folder)
    if not folder.is_dir() and not may_be_empty:
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
    if not found and not may_be_empty:
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
            ListedVideo(
                row["id"],
                row["subset"],
                row["path"],
                int(row["bytes"]),
                float(row["modified"]),
                row["reason"],
            )
            for row in reader
        ]


def _listed(name: str, subset: str, path: Path | None, reason: str) -> ListedVideo:
    if path is None:
        return ListedVideo(name, subset, "", reason=reason)
    status = path.stat()
    return ListedVideo(name, subset, str(path), status.st_size, round(status.st_mtime, 3))
