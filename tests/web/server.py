"""A web server on the loopback interface that behaves like the real ones, and like the bad ones.

``with WebServer() as server:`` serves what `put` gave it, with ranges, If-Range, ETag and Last-Modified.
Faults are queued per path, and each spoils one request: a status such as 429 with Retry-After, a connection
cut after some bytes, a wrong Content-Length, no answer to Range. `requests` says what was asked and sent.
"""

import email.utils
import hashlib
import re
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

PIECE = 1 << 16


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        status: answer with this and nothing else.
        headers: of that answer, or in place of those of a good one.
        cut_after: bytes of the body after which the connection is dropped.
        reset: drop it with a TCP reset, so that the client sees an error and no orderly end.
        length: Content-Length to claim.
        lie: bytes in place of the content, for a file that is not what its name says.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    reset: bool = False
    length: int | None = None
    lie: bytes | None = None


@dataclass
class Resource:
    """What lies under a path. `ranges`: Range is understood. `validators`: it has ETag and Last-Modified."""

    content: bytes | Path
    ranges: bool = True
    validators: bool = True
    kind: str = "application/octet-stream"
    chunked: bool = False
    pace: float = 0.0  # seconds per 64 KiB

    def read(self) -> bytes:
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content


@dataclass
class Asked:
    """One request, and the bytes of the body that were sent."""

    path: str
    range: str | None
    status: int = 0
    sent: int = 0


class WebServer:
    """The server; it runs in threads of its own from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.redirects: dict[str, str] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[Asked] = []
        self.always: Callable[[str], Fault | None] = lambda path: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def put(self, path: str, content: bytes | Path, **options: object) -> str:
        """Serve `content` under `path` from now on; returns its address."""
        self.resources[path] = Resource(content, **options)  # type: ignore[arg-type]
        return self.url(path)

    def redirect(self, path: str, to: str) -> str:
        """Answer 302 to whoever asks for `path`; returns its address."""
        self.redirects[path] = to
        return self.url(path)

    def spoil(self, path: str, *faults: Fault) -> None:
        """Queue faults; each spoils one request for `path`."""
        self.faults[path].extend(faults)

    def sent(self, path: str) -> int:
        """Bytes of bodies that went out for `path`."""
        return sum(asked.sent for asked in self.requests if asked.path == path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> WebServer:
        return self.server.owner  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = urlsplit(self.path).path
        asked = Asked(path, self.headers.get("Range"))
        self.owner.requests.append(asked)
        queue = self.owner.faults.get(path)
        fault = queue.popleft() if queue and body else self.owner.always(path) or Fault()
        if fault.status is not None:
            self._head(asked, fault.status, {"Content-Length": "0", **fault.headers})
        elif path in self.owner.redirects:
            self._head(asked, 302, {"Location": self.owner.redirects[path], "Content-Length": "0"})
        elif path not in self.owner.resources:
            self._head(asked, 404, {"Content-Length": "0"})
        else:
            self._send(asked, self.owner.resources[path], fault, body)

    def _send(self, asked: Asked, resource: Resource, fault: Fault, body: bool) -> None:
        content = resource.read() if fault.lie is None else fault.lie
        headers = {"Content-Type": resource.kind}
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if resource.validators:
            headers |= {"ETag": tag, "Last-Modified": email.utils.formatdate(1.4e9, usegmt=True)}
        status, part = 200, content
        if resource.ranges:
            headers["Accept-Ranges"] = "bytes"
            if (found := self._range(len(content))) and self.headers.get("If-Range") in (None, tag):
                first, last = found
                if first >= len(content):
                    headers |= {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"}
                    self._head(asked, 416, headers)
                    return
                status, part = 206, content[first : last + 1]
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        if resource.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(part) if fault.length is None else fault.length)
        self._head(asked, status, headers | fault.headers)
        if body:
            self._write(asked, part, resource, fault)

    def _range(self, length: int) -> tuple[int, int] | None:
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found or not any(found.groups()):
            return None
        if not found[1]:  # the last so many bytes
            return max(0, length - int(found[2])), length - 1
        return int(found[1]), min(int(found[2] or length), length - 1)

    def _write(self, asked: Asked, part: bytes, resource: Resource, fault: Fault) -> None:
        end = len(part) if fault.cut_after is None else min(fault.cut_after, len(part))
        try:
            for start in range(0, end, PIECE):
                piece = part[start : min(start + PIECE, end)]
                framed = b"%x\r\n%s\r\n" % (len(piece), piece) if resource.chunked else piece
                asked.sent += len(piece)  # before the client can see it, and look here
                self.wfile.write(framed)
                if resource.pace:
                    time.sleep(resource.pace)
            if resource.chunked and fault.cut_after is None:
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        except OSError:  # the client has gone
            self.close_connection = True
        if fault.cut_after is not None or fault.length is not None:
            self._drop(fault.reset)

    def _drop(self, reset: bool) -> None:
        if reset:  # SO_LINGER with 0 seconds: close at once, by a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _head(self, asked: Asked, status: int, headers: dict[str, str]) -> None:
        asked.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
