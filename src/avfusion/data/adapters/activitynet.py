"""ActivityNet's JSON: ``database: {video: {subset, duration, annotations: [{label, segment}]}}``, in seconds.

HACS and FineAction use it too. `duration` may be missing; a top-level list ``labels`` (ours) gives the order
of the classes. Other keys are passed over.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avfusion.data.builder import Builder
from avfusion.data.json_places import places
from avfusion.data.tables import number, parse_json, read_text


def read(paths: Sequence[Path], build: Builder, options: Mapping[str, Any]) -> None:
    """Read the JSON at ``paths[0]`` (gzipped or not). No options.

    Raises:
        InputError: it is no JSON, or not of this structure.
    """
    (path,) = paths
    read_content(load(path, build), build)


def load(path: Path, build: Builder) -> Any:
    """The content of a JSON; `build` learns where in the file everything stands, if it wants to.

    Raises:
        InputError: it is no JSON.
    """
    build.source = str(path)
    text = read_text(path)
    content = parse_json(path, text)
    if build.thorough:
        found = places(text)
        build.lines = found.lines
        for place, line in found.repeated:
            build.refuse(None, f"line {line}: the key '{place}' stands here a second time")
    return content


def read_content(content: Any, build: Builder) -> None:
    """Tell `build` what a parsed JSON says."""
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        build.refuse("database", "must be an object that maps video ids to annotations")
        return
    for video, value in content["database"].items():
        _video(video, value, build)
    labels = content.get("labels")
    if labels is not None:
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            build.refuse("labels", "must be a list of class names")
        else:
            build.labels = labels


def _video(video: str, value: Any, build: Builder) -> None:
    place = f"database.{video}"
    if not isinstance(value, dict):
        build.refuse(place, "must be an object with subset and annotations")
        return
    subset, rows = value.get("subset"), value.get("annotations")
    if subset is None and not build.subset_needed:
        subset = ""
    elif not isinstance(subset, str) or not subset:
        build.refuse(f"{place}.subset", "must name the subset that the video is in")
        return
    build.video(f"{place}.subset", video, subset)
    if value.get("duration") is not None:
        duration = number(value["duration"])
        if duration is None or duration <= 0:
            problem = f"must be a positive number of seconds, not {value['duration']!r}"
            build.refuse(f"{place}.duration", problem)
        else:
            build.video(f"{place}.duration", video, subset, duration)
    if not isinstance(rows, list):
        build.refuse(f"{place}.annotations", "must be a list, empty if nothing happens in the video")
        return
    for index, row in enumerate(rows):
        _instance(f"{place}.annotations[{index}]", video, row, build)


def _instance(place: str, video: str, row: Any, build: Builder) -> None:
    if not isinstance(row, dict):
        build.refuse(place, "must be an object with label and segment")
        return
    label, segment = row.get("label"), row.get("segment")
    if not isinstance(label, str) or not label.strip():
        build.refuse(f"{place}.label", "must be the name of a class")
        return
    if not isinstance(segment, list) or len(segment) != 2:
        build.refuse(f"{place}.segment", "must be [start, end] in seconds")
        return
    start, end = map(number, segment)
    if start is None or end is None:
        build.refuse(f"{place}.segment", f"must be two finite numbers, not {segment!r}")
        return
    build.instance(f"{place}.segment", video, label, start, end)
