"""Which action happens when: ActivityNet JSON files and the THUMOS14 tables, in seconds.

What is fatal and what is not. An annotation that means nothing (no number, a start before 0, an end before
its start, no label, no subset) raises `InputError` with the place in the file. A segment that reaches past
the end of its video, or has no length, is *kept as published* with one warning per file: the figures in the
literature count such instances (26 of THUMOS14's 3,358 test instances lie past the end of their video, 22
of them in video_test_0000270), although nothing can detect them. Training wants them gone:
`clip_to_duration`.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from avfusion.data.tables import number, parse_csv, parse_json, read_text
from avfusion.errors import InputError, did_you_mean
from avfusion.files import write_json

AMBIGUOUS = "Ambiguous"  # THUMOS14 marks what even its annotators would not name; no protocol counts it
PAST_END_TOLERANCE = 1.0  # seconds; container duration and last frame differ by less than this in sound files
TABLE_SUFFIX, INFO_SUFFIX = "_Annotation.csv", "_video_info.csv"
logger = logging.getLogger("avfusion")


@dataclass(frozen=True, slots=True)
class Instance:
    """One action: `start` and `end` in seconds from the start of the video, and the name of its class."""

    start: float
    end: float
    label: str


@dataclass(frozen=True, slots=True)
class VideoAnnotation:
    """What is known of one video: its subset, its length in seconds (None: unknown) and its instances."""

    subset: str
    duration: float | None
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """Annotated videos of a dataset, or of one subset of it.

    Attributes:
        videos: annotation by video id, in the order of the file. Videos without instances are in it.
        labels: names of all classes of the dataset, also of those without an instance in this subset.
        source: the file, for messages.
        elsewhere: ids of the videos of the dataset that are in other subsets.
    """

    videos: Mapping[str, VideoAnnotation]
    labels: tuple[str, ...]
    source: str = "annotations"
    elsewhere: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def subsets(self) -> dict[str, int]:
        """Number of videos of every subset."""
        return dict(Counter(video.subset for video in self.videos.values()))

    def subset(self, name: str) -> "Annotations":
        """Only the videos of one subset; the labels stay those of the whole dataset.

        Raises:
            InputError: no video is in a subset of that name.
        """
        inside = {video: value for video, value in self.videos.items() if value.subset == name}
        if not inside:
            there = (
                ", ".join(f"{subset} ({count} videos)" for subset, count in self.subsets.items()) or "none"
            )
            problem = f"there is no subset '{name}'{did_you_mean(name, self.subsets)}; subsets: {there}"
            raise InputError(self.source, problem, "subset")
        outside = self.videos.keys() - inside.keys()
        return replace(self, videos=inside, elsewhere=self.elsewhere | outside)

    def instances(self) -> int:
        """Number of instances."""
        return sum(len(video.instances) for video in self.videos.values())


def read_annotations(path: str | Path) -> Annotations:
    """Read annotations.

    Args:
        path: an ActivityNet JSON (``database: {video: {subset, duration, annotations: [{label, segment}]}}``;
            `duration` may be missing; also gzipped), or a folder of THUMOS14 tables: every
            ``<subset>_Annotation.csv`` (columns video, type, start, end in seconds) with, if there,
            ``<subset>_video_info.csv`` (video, fps, count, whence the duration). 'Ambiguous' rows of the
            tables are dropped; a video that has only such rows stays, without instances.

    Returns:
        Annotations with labels in alphabetical order, or in that of a top-level ``labels`` list.

    Raises:
        InputError: malformed structure, a value that means nothing, or a video in two subsets.
    """
    path = Path(path)
    annotations = _read_tables(path) if path.is_dir() else _read_json(path)
    _warn_of_the_undetectable(annotations)
    return annotations


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


def _read_json(path: Path) -> Annotations:
    content = parse_json(path, read_text(path))
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise InputError(path, "must be an object that maps video ids to annotations", "database")
    videos = {video: _video(path, video, value) for video, value in content["database"].items()}
    found = {instance.label for value in videos.values() for instance in value.instances}
    labels = content.get("labels", sorted(found))
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError(path, "must be a list of class names", "labels")
    if missing := found - set(labels):
        raise InputError(path, f"lacks {', '.join(sorted(missing))}, which the annotations use", "labels")
    return Annotations(videos, tuple(labels), str(path))


def _video(path: Path, video: str, value: Any) -> VideoAnnotation:
    def refuse(place: str, problem: str) -> NoReturn:
        raise InputError(path, problem, f"database.{video}{place}")

    if not isinstance(value, dict):
        refuse("", "must be an object with subset and annotations")
    subset, rows = value.get("subset"), value.get("annotations")
    if not isinstance(subset, str) or not subset:
        refuse(".subset", "must name the subset that the video is in")
    duration = None
    if value.get("duration") is not None:
        duration = number(value["duration"])
        if duration is None or duration <= 0:
            refuse(".duration", f"must be a positive number of seconds, not {value['duration']!r}")
    if not isinstance(rows, list):
        refuse(".annotations", "must be a list, empty if nothing happens in the video")
    instances = []
    for index, row in enumerate(rows):
        place = f".annotations[{index}]"
        if not isinstance(row, dict):
            refuse(place, "must be an object with label and segment")
        label, segment = row.get("label"), row.get("segment")
        if not isinstance(label, str) or not label.strip():
            refuse(f"{place}.label", "must be the name of a class")
        if not isinstance(segment, list) or len(segment) != 2:
            refuse(f"{place}.segment", "must be [start, end] in seconds")
        start, end = map(number, segment)
        if start is None or end is None:
            refuse(f"{place}.segment", f"must be two finite numbers, not {segment!r}")
        if problem := _impossible(start, end):
            refuse(f"{place}.segment", problem)
        instances.append(Instance(start, end, label))
    return VideoAnnotation(subset, duration, tuple(instances))


def _impossible(start: float, end: float) -> str | None:
    if end < start:
        return f"ends at {end:g} s, before it starts at {start:g} s"
    if start < 0:
        return f"starts at {start:g} s, before the video does"
    return None


def _read_tables(folder: Path) -> Annotations:
    tables = sorted(folder.glob(f"*{TABLE_SUFFIX}"))
    if not tables:
        raise InputError(
            folder, f"holds no <subset>{TABLE_SUFFIX}; name an ActivityNet JSON or such a folder"
        )
    videos: dict[str, VideoAnnotation] = {}
    for table in tables:
        subset = table.name.removesuffix(TABLE_SUFFIX)
        for video, value in _read_subset(folder, table, subset).items():
            if video in videos:
                raise InputError(table, f"is also in subset '{videos[video].subset}'", video)
            videos[video] = value
    labels = sorted({instance.label for value in videos.values() for instance in value.instances})
    return Annotations(videos, tuple(labels), str(folder))


def _read_subset(folder: Path, table: Path, subset: str) -> dict[str, VideoAnnotation]:
    wanted = {name: (name,) for name in ("video", "type", "start", "end")}
    rows = parse_csv(table, read_text(table), wanted)
    info = folder / f"{subset}{INFO_SUFFIX}"
    durations = _read_durations(info) if info.exists() else {}
    instances: dict[str, list[Instance]] = {video: [] for video in durations}
    cells = zip(
        rows.names("video"), rows.names("type"), rows.numbers("start"), rows.numbers("end"), strict=True
    )
    for index, (video, label, start, end) in enumerate(cells):
        found = instances.setdefault(video, [])
        if problem := _impossible(start, end):
            raise InputError(table, f"the segment {problem}", rows.line(index))
        if label != AMBIGUOUS:
            found.append(Instance(float(start), float(end), label))
    return {
        video: VideoAnnotation(subset, durations.get(video), tuple(found))
        for video, found in instances.items()
    }


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
