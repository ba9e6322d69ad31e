"""Features on disk and in memory: snippets by channels, and the seconds at which each snippet lies.

A shard is an HDF5 file with one group per stream and in it one dataset per video::

    /rgb                      attrs: stream, backbone, weights, geometry..., absent (JSON: video -> reason)
    /rgb/video_test_0000004   float32 (T, C); attrs: first, stride, window (seconds), backbone, weights

so that any HDF5 viewer shows what it is. A shard is written whole or not at all.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from avfusion.data.hdf5 import DAMAGE, check_video_id, reading
from avfusion.data.mapped import Mapped, map_file
from avfusion.errors import InputError
from avfusion.files import atomic_path

MADE_BY = ("backbone", "weights")  # attributes of a stream that every video repeats and all shards share


@dataclass(frozen=True)
class TimeAxis:
    """Where snippets lie in time. Snippet i is centred at ``first + i * stride``.

    Attributes:
        first: centre of snippet 0 in seconds from the start of the video.
        stride: seconds from one centre to the next.
        window: seconds that one snippet sees.
    """

    first: float
    stride: float
    window: float

    def __post_init__(self) -> None:
        if not (self.stride > 0 and self.window > 0 and np.isfinite(self.first)):
            raise ValueError(f"not a time axis: {self}")

    @property
    def origin(self) -> float:
        """Second at which the cell of snippet 0 begins, cells being `stride` wide around the centres."""
        return self.first - self.stride / 2

    def centres(self, count: int) -> NDArray[np.float64]:
        """Centres of the first `count` snippets in seconds, shape (count,)."""
        return self.first + self.stride * np.arange(count, dtype=np.float64)

    def end(self, count: int) -> float:
        """Second at which what the last of `count` snippets sees ends."""
        return self.first + self.stride * (count - 1) + self.window / 2


@dataclass(frozen=True)
class VideoFeatures:
    """Features of one video: of one stream, or of several that an encoding fusion has joined.

    Attributes:
        values: float32 (T, C); not to be written to: it may lie in a file (`FeatureStore`).
        axis: time axis of the T snippets.
        widths: channels of every stream, in the order in which they were joined; their sum is C. Left out:
            one stream.
    """

    values: NDArray[np.float32]
    axis: TimeAxis
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise ValueError(f"features are (snippets, channels), not {self.values.shape}")
        channels = self.values.shape[1]
        if not self.widths:
            object.__setattr__(self, "widths", (channels,))
        if sum(self.widths) != channels:
            raise ValueError(f"streams of {self.widths} channels are not {channels} channels")


class FeatureWriter:
    """Write streams of features to one HDF5 file, which appears at `path` when the block ends well.

    Example:
        >>> with FeatureWriter("rgb.h5") as out:  # doctest: +SKIP
        ...     out.stream("rgb", backbone="i3d", weights="sha256:...")
        ...     out.add("rgb", "clip", features)
        ...     out.absent("rgb", "broken", "no video track")
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._stack = ExitStack()
        self._absent: dict[str, dict[str, str]] = {}

    def __enter__(self) -> "FeatureWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path))
            self._file = stack.enter_context(h5py.File(temporary, "w"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for name, absent in self._absent.items():
                    self._file[name].attrs["absent"] = json.dumps(absent, sort_keys=True)
                self._file.flush()  # closing may fail without a word
        except BaseException:  # a disk that is full: the file must not take its place
            self._stack.__exit__(*sys.exc_info())
            raise
        self._stack.__exit__(kind, error, trace)

    def stream(self, name: str, **attributes: Any) -> None:
        """Begin a stream; `attributes` (backbone, weights, flow method, ...) describe how it was made."""
        group = self._file.create_group(name)
        group.attrs.update({"stream": name, **attributes})
        self._absent[name] = {}

    def add(self, stream: str, video: str, features: VideoFeatures) -> None:
        """Store the features of one video.

        Raises:
            InputError: the id cannot name a dataset, or the features hold NaN or infinity.
        """
        group = self._file[stream]
        check_video_id(self._path, video)
        if not np.isfinite(features.values).all():
            raise InputError(self._path, "the features hold NaN or infinity", f"{stream}/{video}")
        data = group.create_dataset(video, data=np.ascontiguousarray(features.values, dtype=np.float32))
        axis = features.axis
        data.attrs.update({"first": axis.first, "stride": axis.stride, "window": axis.window})
        data.attrs.update({key: group.attrs[key] for key in MADE_BY if key in group.attrs})

    def absent(self, stream: str, video: str, reason: str) -> None:
        """Record that `video` has no such features, and why."""
        self._absent[stream][video] = reason


@dataclass(frozen=True)
class _Shard:
    """What of a stream's videos in one file is mapped; the others are read."""

    file: Mapped | None
    videos: Mapping[str, VideoFeatures]

    @property
    def whole(self) -> bool:
        return self.file is None or self.file.whole


class FeatureStore(Mapping[str, VideoFeatures]):
    """One stream of features over any number of shards: a mapping from video id to features.

    Values that lie in a shard as they lie in memory, as those of `FeatureWriter` do, are mapped, read only;
    others are read anew every time. All videos of a shard are looked up when the first is asked for: a shard
    that is replaced afterwards stays what it was.

    Attributes:
        stream: name of the stream.
        absent: reason for every video that was looked at and has no such features.
        attributes: what the first shard says of how the stream was made.

    Raises:
        InputError: a file is no HDF5 file, has no such stream, was made with another backbone or weights than
            the first, or holds a video a second time; when reading a video, its time axis is missing.
    """

    def __init__(self, paths: Iterable[str | Path], stream: str) -> None:
        self.stream = stream
        self.absent: dict[str, str] = {}
        self.attributes: dict[str, Any] = {}
        self._where: dict[str, Path] = {}
        self._shards: dict[Path, _Shard] = {}
        for path in map(Path, paths):
            with reading(path, "features") as file:
                if stream not in file:
                    raise InputError(path, f"holds {sorted(file)}, not the stream '{stream}'")
                self._add_shard(path, file[stream])

    def _add_shard(self, path: Path, group: h5py.Group) -> None:
        attributes = dict(group.attrs)
        self.absent |= json.loads(attributes.pop("absent", "{}"))
        self.attributes = self.attributes or attributes
        for key in MADE_BY:
            here, first = attributes.get(key), self.attributes.get(key)
            if here != first:
                raise InputError(
                    path, f"is '{here}', but '{first}' in the first shard", f"{self.stream}: {key}"
                )
        for video in group:
            if video in self._where:
                raise InputError(path, f"also stands in {self._where[video]}", video)
            self._where[video] = path

    def __getitem__(self, video: str) -> VideoFeatures:
        path = self._where[video]
        if path not in self._shards or not self._shards[path].whole:
            self._shards[path] = _map_shard(path, self.stream)
        if video in self._shards[path].videos:
            return self._shards[path].videos[video]
        with reading(path, "features") as file:
            data = file[self.stream][video]
            return VideoFeatures(data[()].astype(np.float32, copy=False), _axis(data))

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}  # another process maps them itself


def _map_shard(path: Path, stream: str) -> _Shard:
    videos: dict[str, VideoFeatures] = {}
    with reading(path, "features") as file:
        mapped, group = map_file(path, file), file[stream]
        if mapped is None:
            return _Shard(None, videos)
        for video in group:
            with suppress(*DAMAGE):  # told when it is read
                values = mapped.values(group[video])
                if values is not None:
                    videos[video] = VideoFeatures(values, _axis(group[video]))
    return _Shard(mapped if videos else None, videos)


def _axis(data: h5py.Dataset) -> TimeAxis:
    return TimeAxis(*(float(data.attrs[key]) for key in ("first", "stride", "window")))
