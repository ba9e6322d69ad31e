"""Features that somebody else extracted, as a shard of ours.

Read are a folder with a file per video, ``torch.save``d (``.pt``, ``.pth``, or no suffix), ``.npy`` or
``.csv`` (with or without a header line), and an HDF5 file with a dataset per video, or a group per video that
holds one dataset (as ActivityNet's C3D features). Such files do not say where their snippets lie in time, nor
which of their two dimensions is time: both are told, and never guessed.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avfusion.data.annotations import read_annotations
from avfusion.data.features import FeatureWriter, TimeAxis, VideoFeatures
from avfusion.data.hdf5 import reading
from avfusion.data.manifest import ManifestRow, read_manifest
from avfusion.data.tables import read_text
from avfusion.data.torch_file import load_torch
from avfusion.errors import InputError

Unit = Literal["seconds", "frames", "video"]
Layout = Literal["TC", "CT"]
SUFFIXES = ("", ".pt", ".pth", ".npy", ".csv")
NPY_MAGIC = b"\x93NUMPY"
VIDEO = "{video}"
NO_TIMING = "is needed to place its snippets in time"
logger = logging.getLogger("avfusion")


@dataclass(frozen=True)
class Timing:
    """What is known of a video: seconds it lasts, frames per second. None: unknown."""

    duration: float | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Geometry:
    """Where snippets lie in time.

    Attributes:
        unit: of the other values. "seconds"; "frames", of a video whose `Timing` tells its fps; "video": the
            snippets divide the whole video evenly (as features rescaled to 100 snippets do), whose `Timing`
            tells its duration, and the other values are left out.
        stride: from one snippet to the next.
        window: what one snippet sees; None: as much as `stride`.
        first: centre of snippet 0; None: half a window, so that it begins with the video.
    """

    unit: Unit = "seconds"
    stride: float | None = None
    window: float | None = None
    first: float | None = None

    def __post_init__(self) -> None:
        values = {"stride": self.stride, "window": self.window}
        if self.unit == "video":
            for name, value in {**values, "first": self.first}.items():
                if value is not None:
                    raise InputError("geometry", "has no meaning if snippets divide the whole video", name)
            return
        if self.stride is None:
            raise InputError("geometry", f"must be given in {self.unit}", "stride")
        for name, value in values.items():
            if value is not None and not 0 < value < math.inf:
                raise InputError("geometry", f"must be above 0, not {value}", name)

    def axis(self, video: str, count: int, timing: Timing) -> TimeAxis:
        """The time axis of `count` snippets of a video.

        Raises:
            InputError: the video's fps or duration is needed and not known.
        """
        if self.unit == "video":
            if not timing.duration:
                raise InputError("videos", f"its duration {NO_TIMING}", video)
            stride = timing.duration / count
            return TimeAxis(first=stride / 2, stride=stride, window=stride)
        stride = float(self.stride or 0)
        window = self.window or stride
        first = window / 2 if self.first is None else self.first
        if self.unit == "frames":
            if not timing.fps:
                raise InputError("videos", f"its frames per second {NO_TIMING}", video)
            first, stride, window = (value / timing.fps for value in (first, stride, window))
        return TimeAxis(first, stride, window)


def import_features(
    source: str | Path,
    out: str | Path,
    stream: str,
    videos: Mapping[str, Timing],
    geometry: Geometry,
    layout: Layout = "TC",
    width: int | None = None,
    pattern: str = VIDEO,
    backbone: str = "imported",
    may_be_empty: bool = False,
) -> dict[str, str]:
    """Write the features of `videos` as a shard (see `avfusion.data.features`).

    Args:
        source: folder or HDF5 file.
        out: shard to write, whole or not at all.
        stream: rgb, flow, audio, ...
        videos: by id.
        geometry: where snippets lie.
        layout: "TC": snippets by channels; "CT": channels by snippets.
        width: channels that every video must have; None: as the first one.
        pattern: name of a file, without its suffix, or of a dataset: ``{video}`` stands for the id.
        backbone: what made the features, for the record.
        may_be_empty: whether it is fine that no video has features, as in one shard of many.

    Returns:
        Reason for every video that has none; the shard says so too.

    Raises:
        InputError: no such source; no video has features; features of another width, of other dimensions,
            without snippets, or with NaN or infinity; a file that cannot be read, or two of one video; a
            duration or fps that is needed and not known.
    """
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        read = _reader(Path(source), pattern, stack)
        writer = stack.enter_context(FeatureWriter(out))
        writer.stream(stream, backbone=backbone, weights=f"{Path(source).name} ({geometry})")
        doubtful = []
        for video, timing in videos.items():
            found = read(video)
            if isinstance(found, str):
                absent[video] = found
                writer.absent(stream, video, found)
                continue
            place, array = found
            values = _checked(place, array, layout, width)
            width = values.shape[1]
            features = VideoFeatures(values, geometry.axis(video, len(values), timing))
            if timing.duration and _misplaced(features, timing.duration):
                end = features.axis.end(len(values))
                doubtful.append(f"those of '{video}' end at {end:.1f} s, it lasts {timing.duration:.1f} s")
            writer.add(stream, video, features)
        if len(absent) == len(videos) and not may_be_empty:
            reason = next(iter(absent.values()), "none was asked for")
            raise InputError(source, f"has features of none of the {len(videos)} videos ({reason})")
    if doubtful:
        told = f"the snippets of {len(doubtful)} videos do not fit their durations"
        logger.warning("%s: %s (%s): check stride, unit and fps", source, told, doubtful[0])
    logger.info("%s: %d videos, %d have none", source, len(videos) - len(absent), len(absent))
    return absent


def import_shard(
    rows: Sequence[ManifestRow], stream: str, options: Mapping[str, Any], out: str | Path
) -> dict[str, str]:
    """`import_features` of the videos of a manifest, as a dataset's file describes it.

    Args:
        rows: of the manifest; what it does not know of a video, `fps` of the options says.
        stream: its name.
        options: ``streams.STREAM.features`` of config/schemas/dataset.schema.yaml.
        out: shard to write.

    Returns:
        Reason for every video that has no features.

    Raises:
        InputError: as `import_features`.
    """
    videos = {row.id: Timing(row.duration or None, row.fps or options["fps"]) for row in rows}
    geometry = Geometry(*(options[name] for name in ("unit", "stride", "window", "first")))
    return import_features(
        options["path"],
        out,
        stream,
        videos,
        geometry,
        options["layout"],
        options["width"],
        options["pattern"],
        may_be_empty=True,
    )


def read_timings(path: str | Path) -> dict[str, Timing]:
    """What a manifest (``.tsv``) or annotations tell of all their videos.

    Raises:
        InputError: the file cannot be read.
    """
    if Path(path).suffix == ".tsv":
        return {row.id: Timing(row.duration or None, row.fps or None) for row in read_manifest(path)}
    return {name: Timing(video.duration) for name, video in read_annotations(path).videos.items()}


def available(source: str | Path, pattern: str = VIDEO) -> list[str]:
    """Ids of the videos that a folder or HDF5 file has features of, in alphabetical order.

    Raises:
        InputError: no such source, or a pattern without ``{video}``.
    """
    path = Path(source)
    before, after = _parts(pattern)
    if path.is_dir():
        names = {
            file.stem if file.suffix in SUFFIXES else file.name for file in path.iterdir() if file.is_file()
        }
    else:
        with reading(path, "features") as file:
            names = set(file)
    form = re.compile(re.escape(before) + "(.+)" + re.escape(after))
    return sorted(match[1] for match in map(form.fullmatch, names) if match)


Found = tuple[str, Any] | str  # where it stands, and the array; or why there is none


def _reader(source: Path, pattern: str, stack: ExitStack) -> Callable[[str], Found]:
    """A function that looks up one video."""
    before, after = _parts(pattern)
    if source.is_dir():
        return lambda video: _from_folder(source, before + video + after)
    file = stack.enter_context(reading(source, "features"))
    return lambda video: _from_hdf5(source, file, before + video + after)


def _parts(pattern: str) -> tuple[str, str]:
    if pattern.count(VIDEO) != 1:
        raise InputError("pattern", f"must hold {VIDEO} once, not '{pattern}'")
    before, _, after = pattern.partition(VIDEO)
    return before, after


def _from_folder(folder: Path, name: str) -> Found:
    files = [folder / (name + suffix) for suffix in SUFFIXES if (folder / (name + suffix)).is_file()]
    if not files:
        return f"no file {name}.pt, .pth, .npy or .csv in {folder}"
    if len(files) > 1:
        raise InputError(files[0], f"there is {files[1].name} as well: keep one of them")
    return str(files[0]), _read_file(files[0])


def _from_hdf5(source: Path, file: h5py.File, name: str) -> Found:
    if name not in file:
        return f"no dataset {name} in {source}"
    data = file[name]
    if isinstance(data, h5py.Group):
        inside = [value for value in data.values() if isinstance(value, h5py.Dataset)]
        if len(inside) != 1:
            raise InputError(source, f"holds {len(inside)} datasets, expected one", name)
        data = inside[0]
    return f"{source}: {name}", data[()]


def _read_file(path: Path) -> Any:
    if path.suffix == ".csv":
        return _read_csv(path)
    with path.open("rb") as file:
        is_numpy = file.read(len(NPY_MAGIC)) == NPY_MAGIC
    if not is_numpy:
        if path.suffix == ".npy":
            raise InputError(path, "is no .npy file")
        content = load_torch(path)
        return content.detach().float().numpy() if isinstance(content, Tensor) else content
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, f"cannot be read as .npy ({error})") from error


def _read_csv(path: Path) -> NDArray[np.float32]:
    """Numbers, a snippet per line; a first line of anything else, or that counts columns, is a header."""
    lines = [(number, line) for number, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    if lines and _is_header(lines[0][1].split(",")):
        lines = lines[1:]
    if not lines:
        return np.zeros((0, 0), dtype=np.float32)
    try:
        texts = [line for _, line in lines]
        values: NDArray[np.float32] = np.loadtxt(texts, np.float32, delimiter=",", comments=None, ndmin=2)
        return values
    except ValueError as error:
        raise _csv_error(path, lines) from error


def _csv_error(path: Path, lines: Sequence[tuple[int, str]]) -> InputError:
    """What is wrong with lines that are no table of numbers."""
    columns = len(lines[0][1].split(","))
    for number, line in lines:
        cells = line.split(",")
        wrong = next((cell for cell in cells if not _is_number(cell)), None)
        if wrong is not None:
            return InputError(path, f"'{wrong.strip()}' is no number", f"line {number}")
        if len(cells) != columns:
            problem = f"has {len(cells)} values, the lines before have {columns}"
            return InputError(path, problem, f"line {number}")
    return InputError(path, "is no table of numbers")


def _is_header(cells: Sequence[str]) -> bool:
    """Whether a line names columns; pandas calls them 0, 1, 2, ... if nobody says otherwise."""
    counted = len(cells) > 2 and [cell.strip() for cell in cells] == [str(k) for k in range(len(cells))]
    return counted or not all(map(_is_number, cells))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _checked(place: str, array: Any, layout: Layout, width: int | None) -> NDArray[np.float32]:
    """The array as float32 (T, C)."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(place, f"is {kind}, not an array of numbers")
    if array.ndim != 2:
        raise InputError(place, f"has shape {array.shape}, expected two dimensions (snippets and channels)")
    values = (array if layout == "TC" else array.T).astype(np.float32)
    if not values.size:
        raise InputError(place, f"has shape {array.shape}: there is no snippet in it")
    if width is not None and values.shape[1] != width:
        problem = f"has {values.shape[1]} channels, not {width}: another stream, or not in layout {layout}?"
        raise InputError(place, problem)
    if not np.isfinite(values).all():
        raise InputError(place, "holds NaN or infinity")
    return values


def _misplaced(features: VideoFeatures, duration: float) -> bool:
    """Whether the snippets end far before or after the video."""
    axis = features.axis
    slack = axis.window + axis.stride + 0.05 * duration
    return abs(axis.end(len(features.values)) - duration) > slack
