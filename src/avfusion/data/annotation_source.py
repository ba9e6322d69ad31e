"""Annotations from where the configuration says: downloaded if need be, read, and checked as a whole."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urldefrag, urlsplit

from avfusion.data.annotations import Annotations, examine_annotations
from avfusion.data.download import download
from avfusion.errors import InputError

HASH = "sha256="
logger = logging.getLogger("avfusion")


def obtain_annotations(
    spec: str | Mapping[str, Any], folder: str | Path, subsets: Iterable[str], config: str
) -> Annotations:
    """Annotations as ``annotations:`` in a dataset's file describes them.

    Args:
        spec: a path or an address, or a mapping with `path` (one or several of these), `format`, and options
            of the format.
        folder: where downloads go.
        subsets: subsets that must be there.
        config: that file, for messages.

    Raises:
        InputError: they cannot be had, or are wrong; all problems are logged, the message tells the first.
    """
    given = {"path": spec} if isinstance(spec, str) else dict(spec)
    path, form = given.pop("path"), given.pop("format", None)
    paths = [fetch(place, folder) for place in ([path] if isinstance(path, str) else path)]
    options = {name: value for name, value in given.items() if value is not None}
    annotations, problems = examine_annotations(paths, form, options, config)
    refuse(problems)
    for subset in subsets:
        annotations.subset(subset)
    return annotations


def fetch(place: str, folder: str | Path) -> Path:
    """The file at `place`: a path, or an address (perhaps with ``#sha256=...``) to download to `folder`.

    Raises:
        InputError: there is no such file.
    """
    if place.startswith(("http://", "https://")):
        url, fragment = urldefrag(place)
        name = PurePosixPath(urlsplit(url).path).name or "annotations"
        sha256 = fragment.removeprefix(HASH) if fragment.startswith(HASH) else None
        return download(url, Path(folder) / name, sha256=sha256)
    if not Path(place).exists():
        problem = "put the annotations there: an ActivityNet JSON, or a folder of THUMOS14 tables"
        raise InputError(place, f"does not exist; {problem} (docs/datasets.md says where they come from)")
    return Path(place)


def refuse(problems: Sequence[InputError]) -> None:
    """Log all problems, and raise an error that tells the first one.

    Raises:
        InputError: there are any.
    """
    if not problems:
        return
    first = problems[0]
    if len(problems) == 1:
        raise first
    for problem in problems:
        logger.error("%s", problem)
    more = f"{first.problem} (and {len(problems) - 1} more problems, each on a line of its own in the log)"
    raise InputError(first.source, more, first.field)
