"""Talking to web servers that are slow, busy or cut the line: one request, and patience between requests.

What a server says falls into two kinds. `TransientError` is over by itself after a while: a cut connection, a
time-out, "too many requests" (429), "unavailable" (503). Everything else (404, a refused login, a certificate
that does not fit) stays as it is however often one asks: an `InputError` that names the address.
"""

import email.utils
import logging
import random
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import Message
from http.client import HTTPException, HTTPResponse, InvalidURL

from avfusion import __version__
from avfusion.errors import InputError

BLOCK = 1 << 20  # bytes that are handed on at once
RETRIES, TIMEOUT, WAIT = 8, 60.0, 1.0
LONGEST_WAIT = 60.0  # seconds between two attempts, unless the server names a longer time
LONGEST_RETRY_AFTER = 3600.0
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
HINTS = {
    401: "it asks for a login",
    403: "access is refused: accept the terms of the source, or download the file yourself",
    404: "there is no such file: check the address",
    410: "the file has been removed",
}
logger = logging.getLogger("avfusion")


class TransientError(Exception):
    """A request that may succeed later. `retry_after`: seconds that the server asks to wait, if it does."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


class RangeError(Exception):
    """The server has no such range (416): the file is not what an earlier request found."""


class Patience:
    """Counts failures in a row, and waits longer after each. Anything received starts the count anew.

    Args:
        url: for messages.
        retries: attempts after the first one that may fail in a row.
        wait: seconds before the first of them; doubled each time, up to a minute, less a random part so that
            parallel jobs do not come back together. What the server says in Retry-After goes before it.
    """

    def __init__(self, url: str, retries: int = RETRIES, wait: float = WAIT) -> None:
        self.url, self.retries, self.first_wait = url, retries, wait
        self.failures = 0

    def progressed(self) -> None:
        """Something new has been received."""
        self.failures = 0

    def wait(self, interruption: TransientError) -> None:
        """Sleep until the next attempt.

        Raises:
            InputError: there have been too many failures, or the server asks to wait for over an hour.
        """
        if self.failures >= self.retries:
            tried = f"tried {self.failures + 1} times"
            raise InputError(self.url, f"{interruption} ({tried}; what has arrived is kept: run it again)")
        seconds = min(self.first_wait * 2**self.failures, LONGEST_WAIT) * random.uniform(0.5, 1)
        if interruption.retry_after is not None:
            seconds = interruption.retry_after
        if seconds > LONGEST_RETRY_AFTER:
            problem = f"{interruption}, and asks to wait for {seconds / 3600:.1f} hours: run it again then"
            raise InputError(self.url, problem)
        self.failures += 1
        logger.warning("%s: %s; next attempt in %.0f s", self.url, interruption, seconds)
        time.sleep(seconds)


def request(url: str, headers: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> HTTPResponse:
    """Send a GET request, following redirects, and return the open response (status 200 or 206).

    Raises:
        TransientError: it may succeed later.
        RangeError: status 416.
        InputError: it will not, or `url` is no http(s) address.
    """
    if not re.fullmatch(r"https?://[^\s/]\S*", url):
        raise InputError(url, "is no address such as http://host/file or https://host/file")
    own = {"User-Agent": f"avfusion/{__version__}", "Accept-Encoding": "identity"}
    try:
        return urllib.request.urlopen(
            urllib.request.Request(url, headers={**own, **(headers or {})}), timeout=timeout
        )
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(url, error) from error
    except InvalidURL as error:
        raise InputError(url, f"is no address ({error})") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise InputError(url, f"its certificate is not valid ({reason.verify_message})") from error
        raise TransientError(f"cannot be reached ({_said(reason)})") from error


def blocks(response: HTTPResponse) -> Iterator[bytes]:
    """The body in blocks of a mebibyte; what arrived before the connection broke is handed on first.

    Raises:
        TransientError: the connection broke. (Some end early without a sign: count the bytes.)
    """
    block = bytearray()
    try:
        while piece := response.read1(BLOCK - len(block)):
            block += piece
            if len(block) == BLOCK:
                yield bytes(block)
                block.clear()
    except (OSError, HTTPException) as error:
        if block:
            yield bytes(block)
        raise TransientError(f"the connection broke ({_said(error)})") from error
    if block:
        yield bytes(block)


def strong_validator(headers: Message) -> str | None:
    """What If-Range may say to get the rest of the same file and of no other; None if nothing can."""
    tag = headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("Last-Modified")


def content_range(headers: Message) -> tuple[int, int | None] | None:
    """First byte and length of the whole file (None: unknown), from ``Content-Range: bytes 5-9/10``."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if not found:
        return None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    said = f"the server says {error.code} {error.reason}".rstrip()
    if error.code == 416:
        return RangeError(said)
    if error.code in TEMPORARY:
        return TransientError(said, _retry_after(error.headers.get("Retry-After")))
    hint = HINTS.get(error.code)
    return InputError(url, f"{said}: {hint}" if hint else said)


def _retry_after(text: str | None) -> float | None:
    """Seconds from now; the header holds seconds or a date."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _said(error: object) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
