"""MUSES (Liu et al. 2021): TV and movie dramas, 25 classes of multi-shot events.

Its annotations are read in the structure of ActivityNet's JSON. What may differ: a label is the number of a
class (1 to 25), and instead of `duration` a video has the number of its `frames` and their rate `fps`. Both
are brought into the common form here; ``classes`` gives the names.

This is the example of an adapter in docs/datasets.md: what is peculiar to a format is translated, the rest is
left to the reader of the format that it resembles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avfusion.data.adapters import activitynet
from avfusion.data.builder import Builder
from avfusion.data.tables import number
from avfusion.options import read_options, require

CLASSES = 25


@dataclass(frozen=True)
class MusesOptions:
    """Options of the adapter.

    Attributes:
        classes: names of the classes 1 to 25 in the order of their numbers; empty if labels are names.
    """

    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.classes) in (0, CLASSES), "classes", f"must be {CLASSES} names, or none")


def read(paths: Sequence[Path], build: Builder, options: Mapping[str, Any]) -> None:
    """Read the JSON at ``paths[0]``.

    Args:
        options: those of `MusesOptions`.

    Raises:
        InputError: it is no JSON.
    """
    (path,) = paths
    classes = read_options(MusesOptions, options, path, "annotations").classes
    content = activitynet.load(path, build)
    if isinstance(content, dict) and isinstance(content.get("database"), dict):
        for value in filter(_is_video, content["database"].values()):
            _translate(value, classes)
        if classes:
            content["labels"] = list(classes)
    activitynet.read_content(content, build)
    found = {row["label"] for row in _rows(content) if isinstance(row.get("label"), str)}
    if len(found) > CLASSES:
        build.refuse("database", f"has {len(found)} classes, where MUSES has {CLASSES}")


def _is_video(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("annotations"), list)


def _rows(content: Any) -> list[dict[str, Any]]:
    database = content.get("database") if isinstance(content, dict) else None
    videos = filter(_is_video, database.values()) if isinstance(database, dict) else ()
    return [row for video in videos for row in video["annotations"] if isinstance(row, dict)]


def _translate(video: dict[str, Any], classes: tuple[str, ...]) -> None:
    frames, rate = number(video.get("frames")), number(video.get("fps"))
    if "duration" not in video and frames and rate:
        video["duration"] = frames / rate
    for row in video["annotations"]:
        label = row.get("label") if isinstance(row, dict) else None
        if isinstance(label, int) and not isinstance(label, bool) and 1 <= label <= len(classes):
            row["label"] = classes[label - 1]
