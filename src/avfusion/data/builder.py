"""Puts annotations together as an adapter reads them, and collects everything that is wrong with them.

An adapter knows a format; what annotations have in common is here: a video is in one subset and is described
once, a segment has a start before its end. A problem does not stop the reading, so that a person learns of
all of them at once, each with its place.
"""

from collections.abc import Mapping
from pathlib import Path

from avfusion.data.instances import Annotations, Instance, VideoAnnotation
from avfusion.errors import InputError


class Builder:
    """Takes what an adapter finds.

    Attributes:
        source: file or folder that is being read; adapters that read several set it for each.
        problems: everything that is wrong, in the order of the file.
        labels: the classes in the order that networks use, if the file says so.
        lines: line by place, where an adapter knows places that are no lines; messages then tell both.
        thorough: whether to find out these lines, and keys that stand twice, which takes time.
        labels_at: where each class is named first.
        subset_needed: whether every video must name its subset; else it is in the subset "".
    """

    def __init__(self, source: str | Path) -> None:
        self.source = str(source)
        self.problems: list[InputError] = []
        self.labels: list[str] | None = None
        self.lines: Mapping[str, int] = {}
        self.thorough, self.subset_needed = False, True
        self.labels_at: dict[str, str] = {}
        self._videos_at: dict[str, str] = {}
        self._subset: dict[str, str] = {}
        self._duration: dict[str, float] = {}
        self._instances: dict[str, list[Instance]] = {}

    def refuse(self, where: str | None, problem: str) -> None:
        """Note a problem of the current source."""
        self.problems.append(InputError(self.source, problem, self._located(where)))

    def video(self, where: str, name: str, subset: str, duration: float | None = None) -> None:
        """A video, its subset and its length in seconds; the same may be said of it again."""
        if not name.strip():
            self.refuse(where, "the id of the video is empty")
            return
        if name not in self._videos_at:
            self._videos_at[name] = self._located(where) or ""
        known = self._subset.setdefault(name, subset)
        if known != subset:
            self.refuse(where, f"the video '{name}' is in subset '{subset}' here, and in '{known}' above")
        self._instances.setdefault(name, [])
        if duration is None:
            return
        if not duration > 0:
            self.refuse(where, f"must be a positive number of seconds, not {duration!r}")
        elif self._duration.setdefault(name, duration) != duration:
            known_duration = self._duration[name]
            self.refuse(
                where, f"the video '{name}' lasts {duration:g} s here, and {known_duration:g} s above"
            )

    def instance(self, where: str, video: str, label: str, start: float, end: float) -> None:
        """An instance, in seconds, of a video that has been named before."""
        if end < start:
            self.refuse(where, f"the segment ends at {end:g} s, before it starts at {start:g} s")
        elif start < 0:
            self.refuse(where, f"the segment starts at {start:g} s, before the video does")
        else:
            self._instances.setdefault(video, []).append(Instance(start, end, label))
            if label not in self.labels_at:
                self.labels_at[label] = self._located(where) or ""

    def drop_repeats(self, label: str, of: str) -> None:
        """Drop the instances of `label` that stand there with the same times as `of` as well."""
        for video, instances in self._instances.items():
            times = {(i.start, i.end) for i in instances if i.label == of}
            self._instances[video] = [
                i for i in instances if i.label != label or (i.start, i.end) not in times
            ]

    def _located(self, where: str | None) -> str | None:
        """`where` with its line, which is that of the innermost known place around it."""
        place = where or ""
        while place and place not in self.lines:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        return f"line {self.lines[place]}, {where}" if place else where

    def finish(self) -> Annotations:
        """The annotations of what is right; labels in alphabetical order unless the file gave theirs."""
        found = {instance.label for instances in self._instances.values() for instance in instances}
        labels = sorted(found) if self.labels is None else self.labels
        if missing := found - set(labels):
            self.refuse("labels", f"lacks {', '.join(sorted(missing))}, which the annotations use")
        videos = {
            name: VideoAnnotation(subset, self._duration.get(name), tuple(self._instances[name]))
            for name, subset in self._subset.items()
        }
        return Annotations(videos, tuple(labels), self.source, places=self._videos_at)
