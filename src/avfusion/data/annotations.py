"""Which action happens when, in seconds: read from any format that there is an adapter for, checked, written.

What is fatal and what is not. An annotation that means nothing (no number, a start before 0, an end before
its start, no label, no subset) raises `InputError` with the place in the file. A segment that reaches past
the end of its video, or has no length, is *kept as published* with one warning per file: the figures in the
literature count such instances (26 of THUMOS14's 3,358 test instances lie past the end of their video, 22
of them in video_test_0000270), although nothing can detect them. Training wants them gone:
`clip_to_duration`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from avfusion.data import adapters
from avfusion.data.builder import Builder
from avfusion.data.checks import similar_labels
from avfusion.data.instances import Annotations, Instance, VideoAnnotation
from avfusion.errors import InputError
from avfusion.files import write_json

PAST_END_TOLERANCE = 1.0  # seconds; container duration and last frame differ by less than this in sound files
logger = logging.getLogger("avfusion")
__all__ = [
    "Annotations",
    "Instance",
    "VideoAnnotation",
    "clip_to_duration",
    "examine_annotations",
    "read_annotations",
    "write_annotations",
]


def read_annotations(path: str | Path) -> Annotations:
    """Read annotations of which nothing but their file is known.

    Args:
        path: an ActivityNet JSON (``database: {video: {subset, duration, annotations: [{label, segment}]}}``;
            `duration` may be missing; also gzipped), a CSV (video, label, start, end, subset), or a folder
            of THUMOS14 tables: every ``<subset>_Annotation.csv`` (columns video, type, start, end in seconds)
            with, if there, ``<subset>_video_info.csv`` (video, fps, count, whence the duration). 'Ambiguous'
            rows of the tables are dropped; a video that has only such rows stays, without instances.

    Returns:
        Annotations with labels in alphabetical order, or in that of a top-level ``labels`` list.

    Raises:
        InputError: malformed structure, a value that means nothing, or a video in two subsets.
    """
    annotations, problems = examine_annotations([Path(path)], thorough=False)
    if problems:
        raise problems[0]
    _warn_of_the_undetectable(annotations)
    return annotations


def examine_annotations(
    paths: Sequence[Path],
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    source: str | Path = "annotations",
    thorough: bool = True,
    subset_needed: bool = True,
) -> tuple[Annotations, list[InputError]]:
    """Read annotations, and everything that is wrong with them in the order of the file.

    Args:
        paths: files or folders that together hold them.
        format: name of an adapter (`avfusion.data.adapters.FORMATS`); None: guessed from the file's name.
        options: of the adapter.
        source: where format and options come from, for messages.
        thorough: look also for classes written in two ways, for keys that stand twice in a JSON, and for the
            line of its problems.
        subset_needed: whether every video must say which subset it is in; else it may be in the subset "".

    Returns:
        What could be read, and the problems; the former is of use only if there are none of the latter.

    Raises:
        InputError: an unknown format or option, or a file in which nothing can be read at all.
    """
    build = Builder(", ".join(map(str, paths)))
    build.thorough, build.subset_needed = thorough, subset_needed
    read = adapters.reader(format or adapters.guess(paths), source)
    read(paths, build, options or {})
    annotations = build.finish()
    if thorough:
        build.problems += similar_labels(annotations, build.labels_at)
    return annotations, build.problems


def write_annotations(path: str | Path, annotations: Annotations) -> None:
    """Write an ActivityNet JSON, atomically, with the class names as a further top-level list ``labels``."""
    database = {
        video: {
            "subset": value.subset,
            **({} if value.duration is None else {"duration": value.duration}),
            "annotations": [{"label": i.label, "segment": [i.start, i.end]} for i in value.instances],
        }
        for video, value in annotations.videos.items()
    }
    write_json(path, {"version": "AVFusion 1", "labels": list(annotations.labels), "database": database})


def clip_to_duration(annotations: Annotations) -> Annotations:
    """Cut instances at the end of their video and leave out those of which nothing remains.

    For training, where an instance outside of the features teaches nothing; evaluation counts what was
    published. Videos of unknown duration only lose instances without length.
    """
    videos = {}
    for video, value in annotations.videos.items():
        limit = float("inf") if value.duration is None else value.duration
        cut = (replace(i, end=min(i.end, limit)) for i in value.instances)
        videos[video] = replace(value, instances=tuple(i for i in cut if i.end > i.start))
    return replace(annotations, videos=videos)


def _warn_of_the_undetectable(annotations: Annotations) -> None:
    """One line for all segments past the end of their video, one for all without length."""
    late: list[str] = []
    empty: list[str] = []
    for video, value in annotations.videos.items():
        for index, i in enumerate(value.instances):
            where = f"{video}: annotations[{index}].segment: [{i.start:g}, {i.end:g}]"
            if value.duration is not None and i.end > value.duration + PAST_END_TOLERANCE:
                late.append(f"{where} reaches past the end of the video ({value.duration:g} s)")
            elif i.end == i.start:
                empty.append(f"{where} has no length")
    for found in filter(None, (late, empty)):
        more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
        logger.warning("%s: %s%s; kept as published", annotations.source, found[0], more)
