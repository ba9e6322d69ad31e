"""THUMOS14 as its organisers publish it: ZIP archives with a text file per class, ``<Class>_<subset>.txt``.

Every line is a video id, a start and an end in seconds; lines of ``Ambiguous_*.txt`` mark what even the
annotators would not name and are dropped, but their videos count. Three quirks matter to the figures:

* every CliffDiving instance stands in the file of Diving as well, and published evaluations count both;
* video_test_0001292 has 'Ambiguous' lines only;
* the annotations of video_test_0000270 are wrong: they lie past the end of the video.

The literature evaluates on 213 test videos (all), 212 (without 0001292) or 211 (without both).
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from avfusion.data.builder import Builder
from avfusion.data.tables import decode, number
from avfusion.data.zip_members import members
from avfusion.errors import InputError
from avfusion.options import read_options, require

AMBIGUOUS = "Ambiguous"
SUBSETS = {"val": "val", "validation": "val", "test": "test"}
WITHOUT_INSTANCES, WRONG = "video_test_0001292", "video_test_0000270"
PROTOCOLS = {
    213: frozenset[str](),
    212: frozenset({WITHOUT_INSTANCES}),
    211: frozenset({WITHOUT_INSTANCES, WRONG}),
}


@dataclass(frozen=True)
class Thumos14Options:
    """Choices that move the published figures.

    Attributes:
        protocol: number of test videos: 213 (all), 212 (without video_test_0001292, which has no instance) or
            211 (also without video_test_0000270, whose annotations are wrong).
        cliff_diving: "both" counts a CliffDiving instance as Diving too, as published; "once" does not.
    """

    protocol: int = 213
    cliff_diving: Literal["both", "once"] = "both"

    def __post_init__(self) -> None:
        require(self.protocol in PROTOCOLS, "protocol", f"must be {', '.join(map(str, PROTOCOLS))}")

    def excludes(self, video: str) -> bool:
        """Whether the protocol leaves a video out."""
        return video in PROTOCOLS[self.protocol]

    def add(self, build: Builder, where: str, row: tuple[str, str, str], start: float, end: float) -> None:
        """Add a row (video, subset, label) unless the protocol leaves it out."""
        video, subset, label = row
        if self.excludes(video):
            return
        build.video(where, video, subset)
        if label != AMBIGUOUS:
            build.instance(where, video, label, start, end)

    def settle(self, build: Builder) -> None:
        """What remains to be done when all rows are there."""
        if self.cliff_diving == "once":
            build.drop_repeats("Diving", of="CliffDiving")


def choose(options: Mapping[str, Any], source: str) -> Thumos14Options:
    """The options of a mapping, checked."""
    return read_options(Thumos14Options, options, source, "annotations")


def read(paths: Sequence[Path], build: Builder, options: Mapping[str, Any]) -> None:
    """Read the archives (or folders into which they were unpacked).

    Args:
        options: those of `Thumos14Options`.

    Raises:
        InputError: an archive cannot be read, or none holds such a file.
    """
    source = ", ".join(map(str, paths))
    chosen = choose(options, source)
    texts = [text for path in paths for text in _texts(path)]
    if not texts:
        raise InputError(source, "holds no <Class>_val.txt or <Class>_test.txt")
    for place, label, subset, text in sorted(texts, key=lambda found: (found[2], found[1])):
        build.source = place
        for where, video, start, end in _lines(text, build):
            chosen.add(build, where, (video, subset, label), start, end)
    build.source = source
    chosen.settle(build)


def _texts(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Place, class, subset and content of every text file of a class."""
    if path.is_dir():
        found = {str(file): file.read_bytes() for file in sorted(path.rglob("*.txt"))}
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                found = {f"{path}: {info.filename}": archive.read(info) for info in members(archive, path)}
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(path, f"is no ZIP archive, or a damaged one ({error})") from error
    for place, content in found.items():
        name = PurePosixPath(place)
        label, _, subset = name.stem.rpartition("_")
        if name.suffix == ".txt" and subset in SUBSETS and label and not name.name.startswith("."):
            yield place, label, SUBSETS[subset], decode(place, content)


def _lines(text: str, build: Builder) -> Iterator[tuple[str, str, float, float]]:
    for index, line in enumerate(text.splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        times = [number(cell) for cell in cells[1:]]
        if len(times) != 2 or times[0] is None or times[1] is None:
            build.refuse(f"line {index}", f"must be a video id, a start and an end, not '{line[:80]}'")
            continue
        yield f"line {index}", cells[0], times[0], times[1]
