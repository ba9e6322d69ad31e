"""What may be wrong with annotations although every line of them makes sense."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from avfusion.data.instances import Annotations
from avfusion.errors import InputError

SHOWN = 5  # names in a message


def similar_labels(annotations: Annotations, places: Mapping[str, str]) -> list[InputError]:
    """Classes whose names differ in case, blanks or underscores only, by mistake perhaps.

    Args:
        places: where each class is named first.
    """
    counts = Counter(i.label for video in annotations.videos.values() for i in video.instances)
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[re.sub(r"[\s_]+", "", label.casefold())].append(label)
    problems = []
    for labels in groups.values():
        if len(labels) > 1:
            told = ", ".join(
                f"'{label}' ({counts[label]} times, first on {places[label]})"
                for label in sorted(labels, key=lambda label: -counts[label])
            )
            problem = f"are these one class? {told}: write it in one way"
            problems.append(InputError(annotations.source, problem, "labels"))
    return problems


def without_files(annotations: Annotations, files: Iterable[str]) -> list[str]:
    """Annotated videos of which there is no file (their file may be called ``v_ID``)."""
    there = set(files)
    return [name for name in annotations.videos if name not in there and f"v_{name}" not in there]


def without_annotations(annotations: Annotations, files: Iterable[str]) -> list[str]:
    """Files that no annotation names."""
    known = set(annotations.videos)
    return [name for name in files if name not in known and name.removeprefix("v_") not in known]


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
