"""Proposal lists in the text format of SSN and BSN, the files that P-GCN and MUSES ship.

Per video, a value or a row of values a line::

    # 1                                        number of the video
    some/folder/video_validation_0000001       the last part is its id
    1800                                       its length in frames, or in seconds
    1                                          1, or frames per second: the product counts its frames
    1                                          number of instances
    9 1304 1360                                class from 1, first and last frame
    2                                          number of proposals
    9 0.7714 0.7941 1306 1374                  class, tIoU, share on the instance, first and last frame
    0 0.0000 0.0000 120 271                    nothing happens here

Class, tIoU and share of a proposal are those of the instance with the largest tIoU. Published lists hold
segments that are empty, reversed or past the end of their video: they are read as they stand, and left out
where they are used.
"""

import gzip
import logging
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Literal, NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from avfusion.data.annotations import Annotations
from avfusion.data.proposals import Segments
from avfusion.data.tables import GZIP_MAGIC, number
from avfusion.errors import InputError, did_you_mean
from avfusion.files import atomic_path

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
INSTANCE = ("label", "start", "end")
PROPOSAL = ("label", "best_iou", "overlap", "start", "end")
ROUNDING = 1e-4  # lists have four decimals
logger = logging.getLogger("avfusion")


@dataclass(frozen=True, eq=False)
class ListedVideo:
    """What a proposal list says of one video; times in frames.

    Attributes:
        path: as it stands in the list.
        length: of the video, in frames or in seconds.
        rate: 1 if `length` counts frames, else frames per second.
        instances: float64 (G, 2), first and last frame.
        classes: int64 (G,), from 1.
        proposals: float64 (N, 2), first and last frame.
        labels: int64 (N,), class from 1 of the instance with the largest tIoU; 0: none.
        iou: float64 (N,), the largest tIoU with an instance.
        overlap: float64 (N,), share of the proposal that lies on that instance.
    """

    path: str
    length: float
    rate: float
    instances: Segments
    classes: Ints
    proposals: Segments
    labels: Ints
    iou: Floats
    overlap: Floats

    @property
    def id(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def frames(self) -> int:
        """Number of frames of the video."""
        return int(self.length * self.rate)

    @property
    def fps(self) -> float | None:
        """Frames per second; None if the list does not say."""
        return None if self.rate == 1 else self.rate


def read_proposal_list(path: str | Path, known: Collection[str] | None = None) -> Iterator[ListedVideo]:
    """Read a proposal list video by video; it is never in memory as a whole.

    Args:
        path: the list, maybe gzipped.
        known: ids of the videos that may be in it; None: any.

    Raises:
        InputError: a line that is not what the format has there, with its number; counts that do not fit what
            follows; a video that is not known or stands there twice; while iterating.
    """
    seen: dict[str, int] = {}
    with _opened(path) as file:
        lines = _Lines(path, file)
        while (head := lines.next_filled()) is not None:
            if not head.startswith("#"):
                problem = f"'{head}' stands where a video begins with '# number'"
                lines.refuse(f"{problem}; the counts of the video before do not fit" if seen else problem)
            yield _read_video(lines, known, seen)
        if not seen:
            lines.refuse("holds no video", 1)


def write_proposal_list(path: str | Path, videos: Iterable[ListedVideo]) -> None:
    """Write a proposal list, atomically; numbers of videos count from 1."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for index, video in enumerate(videos, 1):
            head = f"# {index}", video.path, _plain(video.length), _plain(video.rate)
            file.writelines(f"{line}\n" for line in (*head, str(len(video.instances))))
            for label, (start, end) in zip(video.classes, video.instances, strict=True):
                file.write(f"{label} {_plain(start)} {_plain(end)}\n")
            file.write(f"{len(video.proposals)}\n")
            columns = zip(video.labels, video.iou, video.overlap, video.proposals, strict=True)
            for label, iou, overlap, (start, end) in columns:
                file.write(f"{label} {iou:.4f} {overlap:.4f} {_plain(start)} {_plain(end)}\n")


def listed_video(
    path: str,
    duration: float,
    fps: float,
    proposals: Segments,
    instances: Segments,
    classes: Ints,
    header: Literal["duration", "frames"] = "duration",
) -> ListedVideo:
    """A video of a proposal list from what is known in seconds; class, tIoU and share are computed.

    Args:
        path: id of the video, with or without a folder before it.
        duration: of the video in seconds.
        fps: frames per second, by which times become (whole) frames.
        proposals: (N, 2) in seconds.
        instances: (G, 2) in seconds; empty if unknown.
        classes: int64 (G,), from 0, as in `avfusion.data.annotations` labels are numbered.
        header: whether the list gives the length in seconds and a rate, or in frames.
    """
    found, wanted = np.rint(proposals * fps), np.rint(instances * fps)
    labels, iou, overlap = match(found, wanted, classes + 1)
    length, rate = (duration, fps) if header == "duration" else (float(int(duration * fps)), 1.0)
    return ListedVideo(path, length, rate, wanted, classes + 1, found, labels, iou, overlap)


def match(proposals: Segments, instances: Segments, classes: Ints) -> tuple[Ints, Floats, Floats]:
    """Label, tIoU and share of every proposal with the instance that has the largest tIoU with it.

    Args:
        proposals: (N, 2) in any unit.
        instances: (G, 2) in the same unit.
        classes: int64 (G,), from 1.

    Returns:
        labels (N,), 0 where no instance is; tIoU (N,); share of the proposal on that instance (N,).
    """
    count = len(proposals)
    if not len(instances) or not count:
        return np.zeros(count, dtype=np.int64), np.zeros(count), np.zeros(count)
    (start, end), (first, last) = proposals.T[:, :, None], instances.T[:, None, :]
    shared = np.maximum(np.minimum(end, last) - np.maximum(start, first), 0)
    lengths = np.broadcast_to(end - start, shared.shape)
    union = lengths + (last - first) - shared
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    best = iou.argmax(axis=1)
    rows = np.arange(count), best
    overlap = np.divide(shared, lengths, out=np.zeros_like(shared), where=lengths > 0)[rows]
    return np.where(iou[rows] > 0, classes[best], 0), iou[rows], np.where(iou[rows] > 0, overlap, 0)


def seconds(video: ListedVideo, frames: Segments, duration: float | None = None) -> Segments:
    """Times of a list's video in seconds: by the list's rate, or as shares of the video's `duration`.

    Raises:
        ValueError: the list has no rate and no duration is given.
    """
    if video.fps is not None:
        return frames / video.fps
    if not duration:
        raise ValueError(f"the length of '{video.id}' in seconds is not known, and the list has no rate")
    return frames / video.frames * duration


def proposals_from_list(
    paths: str | Path | Sequence[str | Path], durations: Mapping[str, float | None]
) -> dict[str, Segments]:
    """Proposals of a list in seconds, for `avfusion.data.proposals.write_proposals`.

    They are cut at both ends of their video; how many then have no length and are left out is logged.

    Args:
        paths: the list, or several (of training and test videos) that have no video in common.
        durations: seconds by video: all videos of the dataset, those that the lists lack as well. The length
            may be unknown (None or 0) where the list has a rate.

    Returns:
        float64 (N, 2) by video, in the order of the lists.

    Raises:
        InputError: see `read_proposal_list`; a video that `durations` lacks, whose length is not known, or
            that two of the lists have.
    """
    found: dict[str, Segments] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        of_this = _from_list(path, durations)
        if both := next((video for video in of_this if video in found), None):
            raise InputError(path, "stands in another of the lists as well", both)
        found |= of_this
    if missing := [video for video in durations if video not in found]:
        more = ", ..." if len(missing) > 3 else ""
        logger.warning(
            "the proposal lists have nothing for %d of %d videos (%s%s)",
            *(len(missing), len(durations), ", ".join(missing[:3]), more),
        )
    return found


def _from_list(path: str | Path, durations: Mapping[str, float | None]) -> dict[str, Segments]:
    found: dict[str, Segments] = {}
    left_out = total = 0
    for video in read_proposal_list(path, durations):
        duration = durations[video.id]
        try:
            segments = seconds(video, video.proposals, duration)
        except ValueError as error:
            raise InputError(path, str(error), video.id) from error
        segments = np.clip(segments, 0, duration or video.frames / video.rate)
        kept = segments[:, 1] > segments[:, 0]
        left_out, total = left_out + int((~kept).sum()), total + len(kept)
        found[video.id] = segments[kept]
    if left_out:
        logger.warning(
            "%s: %d of %d proposals are empty, reversed or outside of their video and are left out",
            *(path, left_out, total),
        )
    return found


def proposals_to_list(
    path: str | Path,
    proposals: Mapping[str, Segments],
    annotations: Annotations,
    rates: Mapping[str, float],
    header: Literal["duration", "frames"] = "duration",
) -> None:
    """Write proposals in seconds as a list, for the published code to train or test on.

    Args:
        path: the list.
        proposals: float64 (N, 2) by video.
        annotations: of these videos; classes count in the order of its labels.
        rates: frames per second by video.
        header: see `listed_video`.

    Raises:
        InputError: a video has no annotation, no known duration or no rate.
    """
    write_proposal_list(path, _listed(proposals, annotations, rates, header))


def _listed(
    proposals: Mapping[str, Segments],
    annotations: Annotations,
    rates: Mapping[str, float],
    header: Literal["duration", "frames"],
) -> Iterator[ListedVideo]:
    index = {label: k for k, label in enumerate(annotations.labels)}
    for name, segments in proposals.items():
        video = annotations.videos.get(name)
        if video is None or not video.duration:
            raise InputError(annotations.source, "says nothing of this video, or not how long it is", name)
        if not rates.get(name, 0) > 0:
            raise InputError(annotations.source, "the frame rate of this video is not known", name)
        instances = np.array([(i.start, i.end) for i in video.instances], dtype=np.float64).reshape(-1, 2)
        classes = np.array([index[i.label] for i in video.instances], dtype=np.int64)
        yield listed_video(name, video.duration, rates[name], segments, instances, classes, header)


class _Lines:
    """The lines of a file, and where in it we are."""

    def __init__(self, path: str | Path, file: TextIO) -> None:
        self._path, self._file, self.line = path, file, 0

    def refuse(self, problem: str, line: int | None = None) -> NoReturn:
        raise InputError(self._path, problem, f"line {line or self.line}")

    def next_filled(self) -> str | None:
        """The next line that is not blank; None at the end."""
        for line in self._file:
            self.line += 1
            if line.strip():
                return line.strip()
        return None

    def take(self, what: str, video: str = "") -> str:
        line = next(self._file, None)
        self.line += 1
        if line is None:
            self.refuse(f"the file ends where {what}{f' of {video!r}' if video else ''} should stand")
        if not line.strip():
            self.refuse(f"is empty; {what} should stand here")
        return line.strip()

    def positive(self, what: str, video: str) -> float:
        text = self.take(what, video)
        value = number(text)
        if value is None or value <= 0:
            self.refuse(f"{what} must be a number above 0, not '{text}'")
        return value

    def count(self, what: str, video: str) -> int:
        text = self.take(f"the number of {what}", video)
        if not (text.isascii() and text.isdigit()):
            self.refuse(f"the number of {what} must be a whole number, not '{text}'")
        return int(text)


def _read_video(lines: _Lines, known: Collection[str] | None, seen: dict[str, int]) -> ListedVideo:
    """What follows the line '# number'; `seen` maps the videos before to their lines and gets this one."""
    path = lines.take("the path or id")
    video = path.rstrip("/").rsplit("/", 1)[-1]
    if known is not None and video not in known:
        lines.refuse(f"the video '{video}' is not in the dataset{did_you_mean(video, known)}")
    if video in seen:
        lines.refuse(f"the video '{video}' stands in line {seen[video]} already")
    seen[video] = lines.line
    length = lines.positive("the length (frames, or seconds)", video)
    rate = lines.positive("the rate (1, or frames per second)", video)
    if length * rate < 1:
        lines.refuse(f"a length of {length:g} at a rate of {rate:g} is less than one frame")
    instances, first = _table(lines, "instances", INSTANCE, video)
    if len(bad := np.flatnonzero(instances[:, 0] < 1)):
        lines.refuse("classes of instances count from 1", first + int(bad[0]))
    proposals, first = _table(lines, "proposals", PROPOSAL, video)
    shares = proposals[:, 1:3]
    if len(bad := np.flatnonzero(((shares < -ROUNDING) | (shares > 1 + ROUNDING)).any(axis=1))):
        lines.refuse("best_iou and overlap must be in [0, 1]", first + int(bad[0]))
    (classes, wanted), (labels, found) = (
        (table[:, 0].astype(np.int64), table[:, -2:]) for table in (instances, proposals)
    )
    return ListedVideo(path, length, rate, wanted, classes, found, labels, proposals[:, 1], proposals[:, 2])


def _table(lines: _Lines, what: str, columns: tuple[str, ...], video: str) -> tuple[Floats, int]:
    """As many rows as the next line says, float64 (n, columns), and the line of the first one."""
    count = lines.count(what, video)
    first, rows = lines.line + 1, []
    for index in range(count):
        text = lines.take(f"number {index + 1} of {count} {what}", video)
        if text.startswith("#"):
            lines.refuse(f"'{video}' should have {count} {what}, but only {index} stand here")
        row = text.split()
        if len(row) != len(columns):
            wanted = f"{len(columns)} values: {' '.join(columns)}"
            lines.refuse(f"'{text}' has {len(row)} values; of the {what} every line has {wanted}")
        rows.append(row)
    try:
        table = np.array(rows, dtype=np.float64).reshape(-1, len(columns))
    except ValueError:
        table = np.array([[_float(cell) for cell in row] for row in rows])
    for index, column in np.argwhere(~np.isfinite(table)).tolist():
        lines.refuse(f"{columns[column]} must be a number, not '{rows[index][column]}'", first + index)
    for index in np.flatnonzero((table[:, 0] < 0) | (table[:, 0] % 1 != 0)).tolist():
        lines.refuse(f"label must be a whole number of 0 or more, not '{rows[index][0]}'", first + index)
    return table, first


def _float(cell: str) -> float:
    value = number(cell)
    return float("nan") if value is None else value


def _plain(value: float) -> str:
    """A number without a decimal point where it is whole."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


@contextmanager
def _opened(path: str | Path) -> Iterator[TextIO]:
    """The text of a file, unpacked if it is gzipped."""
    try:
        with Path(path).open("rb") as stream:
            packed = stream.peek(2).startswith(GZIP_MAGIC)
            unpacked = gzip.GzipFile(fileobj=stream) if packed else stream
            with TextIOWrapper(unpacked, encoding="utf-8-sig") as text:
                yield text
    except FileNotFoundError as error:
        raise InputError(path, "there is no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "is not UTF-8 text: save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
