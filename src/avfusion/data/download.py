"""Downloads that survive anything: resumed where they stopped, verified, and in place only when right.

While it is incomplete, ``DIR/NAME`` lies in ``DIR/.NAME.part``; beside it ``.NAME.part.json`` says what the
server called it (ETag), so that the rest is asked for with If-Range: a file that has changed in the meantime
starts over instead of being glued together from two. Both survive SIGKILL, and the next call goes on.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import BinaryIO

from avfusion.data import web
from avfusion.errors import InputError
from avfusion.files import write_json
from avfusion.progress import track

logger = logging.getLogger("avfusion")


def download(
    url: str,
    path: str | Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    git_blob: str | None = None,
    retries: int = web.RETRIES,
    timeout: float = web.TIMEOUT,
    wait: float = web.WAIT,
    progress: bool = True,
) -> Path:
    """Download `url` to `path`, unless it is there already and right.

    A file that is there is right if it has the size and the hashes asked for; without any, if it is there at
    all, because it takes its name only when it is whole. Two processes that want the same file take turns.

    Args:
        url: http or https; redirects are followed.
        path: file to make; its folder is made too.
        size: bytes that it must have.
        sha256: SHA-256 that it must have, as hexadecimal digits.
        git_blob: id that git gives it (SHA-1 of ``blob SIZE``, a zero byte, and the content).
        retries: failures in a row, with nothing received, that are forgiven.
        timeout: seconds without a sign of the server that count as a failure.
        wait: seconds before the first new attempt; doubled after every failure.
        progress: show how far it is.

    Returns:
        `path`.

    Raises:
        InputError: the server does not have it, or has something else; one line that names the address.
    """
    path, expected = Path(path), Expected(size, sha256, git_blob)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.part")) as part:
        if path.exists():
            problem = expected.problem(path)
            if problem is None:
                _discard(part)
                return path
            logger.warning("%s: %s; it is downloaded anew", path, problem)
        transfer = _Transfer(url, part, expected, timeout, str(path) if progress else None)
        _complete(transfer, web.Patience(url, retries, wait))
        place_part(part, path)
    return path


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it is there; None where nothing is."""

    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def hashed(self) -> bool:
        """Whether the content can be told from any other."""
        return self.sha256 is not None or self.git_blob is not None

    def problem(self, path: Path) -> str | None:
        """What is wrong with the file, or None."""
        length = path.stat().st_size
        if self.size is not None and length != self.size:
            return f"has {length} bytes, not {self.size} as expected"
        wanted = {"SHA-256": self.sha256, "git blob id": self.git_blob}
        starts = {"SHA-256": hashlib.sha256(), "git blob id": hashlib.sha1(b"blob %d\0" % length)}
        digests = {name: starts[name] for name, value in wanted.items() if value is not None}
        if digests:
            with path.open("rb") as stream:
                while block := stream.read(web.BLOCK):
                    for digest in digests.values():
                        digest.update(block)
        for name, digest in digests.items():
            if digest.hexdigest() != str(wanted[name]).lower():
                return f"has the {name} {digest.hexdigest()}, not {wanted[name]} as expected"
        return None


@dataclass(frozen=True)
class _State:
    """What the server said of the file of which a part is here."""

    url: str
    validator: str | None = None
    total: int | None = None

    @classmethod
    def read(cls, part: Path) -> "_State | None":
        try:
            return cls(**json.loads(_sidecar(part).read_text()))
        except (OSError, ValueError, TypeError):
            return None


@dataclass
class _Transfer:
    """One file on its way: what has arrived lies in `part`."""

    url: str
    part: Path
    expected: Expected
    timeout: float
    shown: str | None
    resumed: bool = field(default=False, init=False)

    @property
    def arrived(self) -> int:
        return self.part.stat().st_size

    def attempt(self, patience: web.Patience) -> None:
        """Ask for what is missing, and append what comes.

        Raises:
            TransientError: it ended early.
            InputError: what comes cannot be the file.
        """
        state = self._resumable()
        if state is not None and state.total == self.arrived:
            return
        headers = {}
        if state is not None:
            headers["Range"] = f"bytes={self.arrived}-"
            if state.validator is not None:
                headers["If-Range"] = state.validator
        try:
            response = web.request(self.url, headers, self.timeout)
        except web.RangeError as error:
            self.start_over()
            raise web.TransientError("the file has become shorter") from error
        with response:
            total = self._continue(response, state) if response.status == 206 else self._begin(response)
            self._append(response, total, patience)

    def start_over(self) -> None:
        """Forget what has arrived. (The lock stays on the file, so it is emptied, not removed.)"""
        os.truncate(self.part, 0)
        _sidecar(self.part).unlink(missing_ok=True)
        self.resumed = False

    def _resumable(self) -> _State | None:
        state = _State.read(self.part)
        if state is None or not self.arrived:
            return None
        certain = self.expected.hashed or None not in (state.validator, state.total)
        fits = state.total is None or self.arrived <= state.total
        return state if state.url == self.url and certain and fits else None

    def _begin(self, response: HTTPResponse) -> int | None:
        length = response.headers.get("Content-Length")
        total = int(length) if length is not None and length.isdecimal() else None
        if self.expected.size is not None and total not in (None, self.expected.size):
            problem = f"has {total} bytes, not {self.expected.size} as expected: it is another file"
            raise InputError(self.url, problem)
        total = self.expected.size if total is None else total
        unknown = self.expected == Expected()
        if unknown and total is None and not response.chunked:
            problem = "the server does not say how long the file is; give its size or hash, to know its end"
            raise InputError(self.url, problem)
        is_page = response.headers.get_content_type() == "text/html"
        if unknown and is_page and Path(self.part.stem).suffix not in (".html", ".htm"):
            raise InputError(
                self.url, "the server sends a web page in place of the file: open it in a browser"
            )
        if self.arrived:
            logger.info("%s: starts over: it has changed, or the server cannot resume", self.url)
        self.start_over()
        validator = web.strong_validator(response.headers)
        write_json(_sidecar(self.part), asdict(_State(self.url, validator, total)))
        return total

    def _continue(self, response: HTTPResponse, state: _State | None) -> int | None:
        found = web.content_range(response.headers)
        if state is None or found is None or found[0] != self.arrived or found[1] not in (None, state.total):
            self.start_over()
            raise web.TransientError("the server sent another part than the one asked for")
        self.resumed = True
        return state.total

    def _append(self, response: HTTPResponse, total: int | None, patience: web.Patience) -> None:
        incoming: Iterator[bytes] = web.blocks(response)
        if self.shown:
            count = None if total is None else math.ceil((total - self.arrived) / web.BLOCK)
            incoming = track(incoming, f"downloading {self.shown}", count, "MiB")
        with self.part.open("ab") as stream:
            for block in incoming:
                stream.write(block)
                stream.flush()
                patience.progressed()
        if total is not None and self.arrived < total:
            raise web.TransientError(f"the connection was cut after {self.arrived} of {total} bytes")


def _complete(transfer: _Transfer, patience: web.Patience) -> None:
    """Attempt until the file is whole and right."""
    while True:
        try:
            transfer.attempt(patience)
        except web.TransientError as interruption:
            patience.wait(interruption)
            continue
        except InputError:
            if not transfer.arrived:
                _discard(transfer.part)
            raise
        problem = transfer.expected.problem(transfer.part)
        if problem is None:
            return
        again = transfer.resumed
        transfer.start_over()
        if not again:  # put together from parts it may be spoilt; in one piece it is another file
            _discard(transfer.part)
            raise InputError(transfer.url, f"{problem}: it is another file, or was spoilt on the way")
        logger.warning("%s: %s; it starts over", transfer.url, problem)


@contextmanager
def locked(part: Path) -> Iterator[Path]:
    """Hold the only right to write `part`, which is made if it is not there."""
    stream = _lock(part)
    while not (part.exists() and os.path.samestat(os.fstat(stream.fileno()), part.stat())):
        stream.close()  # the process that had the lock has put the file in place, or removed it
        stream = _lock(part)
    with stream:
        yield part


def _lock(part: Path) -> BinaryIO:
    stream = part.open("ab")
    fcntl.flock(stream, fcntl.LOCK_EX)
    return stream


def place_part(part: Path, path: Path) -> None:
    """Give a file that is whole its name."""
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)
    _sidecar(part).unlink(missing_ok=True)


def _discard(part: Path) -> None:
    _sidecar(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _sidecar(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
