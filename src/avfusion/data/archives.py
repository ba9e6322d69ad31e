"""ZIP archives of which only some members are wanted, read where they lie: on disk, or on a web server.

An archive of a hundred gigabytes need not be stored to take the tenth of it that is annotated: its list of
members stands at its end, and each member can be asked for by its range of bytes. Every member that arrives
is checked (length and CRC-32) and placed atomically; one that is there already is not asked for again. An
archive with a member that would be written elsewhere (``../``, an absolute path) or is a link is refused.
"""

import io
import logging
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from avfusion.data import web
from avfusion.data.download import locked, place_part
from avfusion.data.zip_members import members
from avfusion.errors import InputError

TAIL = 1 << 20  # bytes at the end of an archive that are asked for first; a list of members mostly fits
LOCAL_HEADER = 30  # bytes of a member's own header before its name
ENCRYPTED, CHECKED_BY_TIME = 0x1, 0x8  # flags of a member
AES = 99
logger = logging.getLogger("avfusion")


class Source(Protocol):
    """Something that has a name, a size, and bytes that can be read from anywhere."""

    name: str
    size: int

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes `start` to `end`, in blocks."""


class LocalSource:
    """An archive on disk."""

    def __init__(self, path: Path) -> None:
        self.name, self.path = str(path), path
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise InputError(path, f"cannot be read ({error.strerror})") from error

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes `start` to `end`, in blocks."""
        with self.path.open("rb") as stream:
            stream.seek(start)
            while start < end and (block := stream.read(min(web.BLOCK, end - start))):
                start += len(block)
                yield block


class RemoteSource:
    """An archive on a web server that understands Range.

    Args:
        url: its address.
        retries, timeout, wait: patience with the server, as in `avfusion.data.download.download`.

    Raises:
        InputError: there is no such file, or the server cannot send parts of it.
    """

    def __init__(
        self, url: str, retries: int = web.RETRIES, timeout: float = web.TIMEOUT, wait: float = web.WAIT
    ) -> None:
        self.name, self._timeout, self._patience = url, timeout, web.Patience(url, retries, wait)
        self._validator: str | None = None
        self.size, self._tail = self._read_tail()

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes `start` to `end`, in blocks; a cut connection is resumed.

        Raises:
            InputError: the server gives up, or the file has changed since it was opened.
        """
        offset = self.size - len(self._tail)
        if start >= offset:
            yield self._tail[start - offset : end - offset]
            return
        while start < end:
            try:
                for block in self._request(start, end):
                    start += len(block)
                    self._patience.progressed()
                    yield block
                if start < end:
                    raise web.TransientError(f"the connection was cut, {end - start} bytes are missing")
            except web.TransientError as interruption:
                self._patience.wait(interruption)

    def _request(self, start: int, end: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if self._validator:
            headers["If-Range"] = self._validator
        try:
            response = web.request(self.name, headers, self._timeout)
        except web.RangeError as error:
            raise InputError(self.name, "has changed while it was being read: run it again") from error
        with response:
            if response.status != 206 or web.content_range(response.headers) != (start, self.size):
                raise InputError(self.name, "has changed while it was being read: run it again")
            yield from web.blocks(response)

    def _read_tail(self) -> tuple[int, bytes]:
        while True:
            try:
                with web.request(self.name, {"Range": f"bytes=-{TAIL}"}, self._timeout) as response:
                    found = web.content_range(response.headers)
                    length = int(response.headers.get("Content-Length", TAIL + 1))
                    if response.status == 200 and length <= TAIL:
                        found = 0, length  # all of it, which is as good
                    if found is None or found[1] is None:
                        problem = "the server sends whole files only: download it, and name the file instead"
                        raise InputError(self.name, problem)
                    self._validator = web.strong_validator(response.headers)
                    start, size = found[0], found[1]
                    tail = b"".join(web.blocks(response))
                    if len(tail) == size - start:
                        return size, tail
                    raise web.TransientError("the connection was cut")
            except web.RangeError as error:
                raise InputError(self.name, "is empty") from error
            except web.TransientError as interruption:
                self._patience.wait(interruption)


@dataclass(frozen=True)
class Archive:
    """An opened archive: where it lies, and its members by the name of their file without its suffix."""

    source: Source
    members: Mapping[str, zipfile.ZipInfo]


def open_archive(
    place: str, retries: int = web.RETRIES, timeout: float = web.TIMEOUT, wait: float = web.WAIT
) -> Archive:
    """Read the list of members of the archive at `place`, a path or an http(s) address.

    Raises:
        InputError: it cannot be read, is no ZIP archive, or holds what a well-meaning archive does not.
    """
    remote = place.startswith(("http://", "https://"))
    source: Source = RemoteSource(place, retries, timeout, wait) if remote else LocalSource(Path(place))
    try:
        with zipfile.ZipFile(io.BufferedReader(_Seekable(source), TAIL)) as archive:
            found: dict[str, zipfile.ZipInfo] = {}
            for info in members(archive, place):
                stem = PurePosixPath(info.filename).stem
                if stem in found:
                    problem = f"{found[stem].filename} and {info.filename} both claim to be it"
                    raise InputError(place, problem, stem)
                found[stem] = info
    except zipfile.BadZipFile as error:
        raise InputError(place, f"is no ZIP archive, or a damaged one ({error})") from error
    return Archive(source, found)


def extract(archive: Archive, member: str, path: str | Path, password: str | None = None) -> Path:
    """Put a member of the archive to `path`, unless a file of its size is there already.

    Args:
        member: its key in `archive.members`.
        password: of an archive that is encrypted.

    Raises:
        InputError: a password is missing or wrong, or the member is damaged.
    """
    path, info = Path(path), archive.members[member]
    if path.exists() and path.stat().st_size == info.file_size:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.part")) as part:
        if not (path.exists() and path.stat().st_size == info.file_size):
            _unpack(archive.source, info, part, password)
            place_part(part, path)
        else:
            part.unlink()
    return path


def _unpack(source: Source, info: zipfile.ZipInfo, part: Path, password: str | None) -> None:
    place = f"{source.name}: {info.filename}"
    length, crc = 0, 0
    with part.open("wb") as stream:
        try:
            for block in _plain(source, info, password):
                length += len(block)
                crc = zlib.crc32(block, crc)
                if length > info.file_size:
                    break
                stream.write(block)
        except zlib.error as error:
            raise InputError(place, f"is damaged, or the password is wrong ({error})") from error
    if length != info.file_size or crc != info.CRC:
        raise InputError(place, "is damaged, or the password is wrong (its check sum differs)")


def _plain(source: Source, info: zipfile.ZipInfo, password: str | None) -> Iterator[bytes]:
    """The content of a member, decrypted and inflated."""
    blocks = _raw(source, info)
    if info.flag_bits & ENCRYPTED:
        blocks = _decrypted(blocks, info, password, source.name)
    if info.compress_type == zipfile.ZIP_STORED:
        yield from blocks
    elif info.compress_type == zipfile.ZIP_DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        for block in blocks:
            while block and not inflate.eof:
                yield inflate.decompress(block, web.BLOCK)
                block = inflate.unconsumed_tail
        yield inflate.flush()
    else:
        kind = "AES encryption" if info.compress_type == AES else f"compression method {info.compress_type}"
        problem = f"{kind} is not supported: unpack the archive, and use `source: folder`"
        raise InputError(source.name, problem, info.filename)


def _raw(source: Source, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of a member as they are stored. Its own header is read first, for it may differ in length."""
    header = b"".join(source.read(info.header_offset, info.header_offset + LOCAL_HEADER))
    if len(header) < LOCAL_HEADER or not header.startswith(b"PK\3\4"):
        raise InputError(source.name, "is damaged: there is no member where the list says", info.filename)
    name, extra = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
    start = info.header_offset + LOCAL_HEADER + name + extra
    return source.read(start, start + info.compress_size)


def _decrypted(
    blocks: Iterator[bytes], info: zipfile.ZipInfo, password: str | None, place: str
) -> Iterator[bytes]:
    from avfusion.data import zipcrypto  # compiles

    if not password:
        problem = "is encrypted: give the password under `media: {password: ...}` (docs/datasets.md)"
        raise InputError(place, problem, info.filename)
    decrypter = zipcrypto.Decrypter(password.encode())
    header = b""
    for block in blocks:
        plain = decrypter.decrypt(block)
        missing = zipcrypto.HEADER - len(header)
        if missing:
            header, plain = header + plain[:missing], plain[missing:]
            if len(header) == zipcrypto.HEADER and header[-1] != _check(info):
                raise InputError(place, "the password is wrong (`media: {password: ...}`)", info.filename)
        yield plain


def _check(info: zipfile.ZipInfo) -> int:
    """The byte that a right password makes of the last one of the encryption header."""
    if info.flag_bits & CHECKED_BY_TIME:
        _, _, _, hour, minute, _ = info.date_time
        return (hour << 11 | minute << 5) >> 8
    return info.CRC >> 24


class _Seekable(io.RawIOBase):
    """A `Source` as the file that `zipfile` wants, to read its list of members."""

    def __init__(self, source: Source) -> None:
        self.source, self.position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.source.size}[whence]
        if start + offset < 0:
            raise OSError(f"seek to {start + offset}")
        self.position = start + offset
        return self.position

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        end = min(self.position + len(buffer), self.source.size)
        content = b"".join(self.source.read(self.position, end)) if self.position < end else b""
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)
