"""What of a shard is finished, so that an interrupted job goes on where it stopped.

A shard is written whole or not at all, and a workflow engine removes what a failed job declared; so the
videos that are finished stand in a file beside the shard, ``.NAME.partial``: a line that says what they are
(everything that features depend on), then record after record, each with its checksum. A record that a kill
or a full disk cut off is dropped, and so is everything if it was made in another way. The file is removed
once the shard is in place.
"""

import errno
import fcntl
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.errors import AvfusionError

_EXTRA = 4096  # bytes that HDF5 adds per dataset, and more
FULL = (errno.ENOSPC, errno.EDQUOT)
Result = VideoFeatures | str  # features, or the reason why there are none
logger = logging.getLogger("avfusion")


@dataclass(frozen=True)
class _Entry:
    """One stream of one video in the file: its header and where its values begin."""

    header: dict[str, Any]
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return 4 * int(np.prod(self.header["shape"]))


class Journal:
    """Finished videos of a shard; use as a context manager.

    Args:
        target: the shard; the journal lies beside it.
        key: everything that the features depend on, as JSON.

    Raises:
        AvfusionError: another process is writing it, or the disk is full.
    """

    def __init__(self, target: Path, key: Mapping[str, Any]) -> None:
        self.path = target.with_name(f".{target.name}.partial")
        self._key = json.dumps(key, sort_keys=True)
        self._done: dict[str, tuple[str, dict[str, _Entry]]] = {}

    def __enter__(self) -> "Journal":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: FileIO = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise AvfusionError(
                f"{self.path}: another process is extracting this shard; wait for it, or end it"
            ) from None
        except OSError:  # a file system without locks
            pass
        self._load()
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()

    def finished(self, video: str, source: str) -> bool:
        """Whether `video` is done, from a file that says the same of itself (`source`: its hash, or so)."""
        return video in self._done and self._done[video][0] == source

    def add(self, video: str, source: str, results: Mapping[str, Result]) -> None:
        """Keep the results of a video, on the disk when this returns.

        Raises:
            AvfusionError: the disk is full.
        """
        begin = self._file.seek(0, os.SEEK_END)
        records = [self._record(video, source, name, result) for name, result in results.items()]
        self._append(b"".join(records) + self._line({"video": video, "finished": source}), begin)
        self._scan(begin)

    def results(self, video: str) -> dict[str, Result]:
        """What was kept of a finished video."""
        return {name: self._read(entry) for name, entry in self._done[video][1].items()}

    def reserve(self, target: Path) -> None:
        """Make sure that the shard will fit beside the journal. (HDF5 may crash if it does not.)

        Raises:
            AvfusionError: the disk is full.
        """
        size = (
            os.fstat(self._file.fileno()).st_size + sum(len(done) for _, done in self._done.values()) * _EXTRA
        )
        with telling_a_full_disk(target), tempfile.TemporaryFile(dir=target.parent) as room:
            os.posix_fallocate(room.fileno(), 0, size + _EXTRA)

    def discard(self) -> None:
        """Remove the file: the shard is in place."""
        self.path.unlink(missing_ok=True)

    def _load(self) -> None:
        self._file.seek(0)
        head = self._file.readline()
        if head == self._line({"key": self._key}):
            self._scan(self._file.tell())
        if not self._done:
            self._file.truncate(0)
            self._append(self._line({"key": self._key}), 0)
            return
        self._file.truncate(self._end)
        logger.info("%s: %d videos are finished; going on behind them", self.path, len(self._done))

    def _scan(self, begin: int) -> None:
        """Take in the records from a place in the file to its end, or to where it is cut off."""
        parts: dict[str, dict[str, _Entry]] = {}
        self._end = begin
        for header, offset in self._headers(begin):
            if "finished" in header:
                video = header["video"]
                self._done[video] = header["finished"], parts.pop(video, {})
                self._end = offset
            else:
                parts.setdefault(header["video"], {})[header["stream"]] = _Entry(header, offset)

    def _headers(self, begin: int) -> Iterator[tuple[dict[str, Any], int]]:
        self._file.seek(begin)
        while line := self._file.readline():
            header = _parsed(line)
            if header is None:
                return
            offset = self._file.tell()
            yield header, offset
            if "shape" in header:
                self._file.seek(offset)
                values = self._file.read(_Entry(header, offset).size)
                if zlib.crc32(values) != header["values"]:
                    return

    def _record(self, video: str, source: str, stream: str, result: Result) -> bytes:
        header: dict[str, Any] = {"video": video, "stream": stream}
        if isinstance(result, str):
            return self._line(header | {"absent": result})
        values = np.ascontiguousarray(result.values, dtype="<f4").tobytes()
        header |= {"shape": result.values.shape, "axis": asdict(result.axis), "values": zlib.crc32(values)}
        return self._line(header) + values

    def _read(self, entry: _Entry) -> Result:
        if "absent" in entry.header:
            return str(entry.header["absent"])
        self._file.seek(entry.offset)
        values = np.frombuffer(self._file.read(entry.size), "<f4").reshape(entry.header["shape"])
        return VideoFeatures(values, TimeAxis(**entry.header["axis"]))

    def _append(self, content: bytes, size: int) -> None:
        """Write behind the `size` bytes that are there; wholly, or not at all."""
        with telling_a_full_disk(self.path):
            try:
                self._file.write(content)
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(size)
                raise

    @staticmethod
    def _line(header: Mapping[str, Any]) -> bytes:
        text = json.dumps(header, sort_keys=True).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)


@contextmanager
def telling_a_full_disk(path: Path) -> Iterator[None]:
    """Say in words that the disk is full, where the block fails to write to `path` for that reason.

    Raises:
        AvfusionError: it is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise AvfusionError(
            f"{path}: the disk is full (or a quota reached); make room and start again: "
            "videos that are finished are kept"
        ) from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The header in a line; None if the line is cut off or damaged."""
    digest, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or digest != b"%08x" % zlib.crc32(text):
        return None
    header: dict[str, Any] = json.loads(text)
    return header
