"""Videos from YouTube (or wherever yt-dlp finds them), slowly, and with a record of those that are gone.

A video may be away for good (removed, private, blocked) or for now (too many requests, no connection). The
first is a fact about the dataset, written to an archive file and to the manifest. The second is not: it is
tried again with growing pauses, and if it stays, the job fails when it has tried the others, so that another
run has only those left to do.
"""

import logging
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from avfusion.data.terms import demand_acceptance
from avfusion.errors import InputError
from avfusion.options import require
from avfusion.progress import track

OK = "ok"
LONGEST_WAIT = 600.0
# What yt-dlp says when another attempt may help; everything else is how things are.
FOR_NOW = re.compile(
    r"HTTP Error (408|425|429|5\d\d)|timed? ?out|time-?out|connection|temporar|getaddrinfo|resolve"
    r"|unreachable|reset by peer|incomplete|more expected|rate-?limit|try again later|not a bot|EOF occurred",
    re.IGNORECASE,
)
BLOCKED = re.compile(r"not a bot|rate-?limit", re.IGNORECASE)
logger = logging.getLogger("avfusion")


@dataclass(frozen=True)
class YoutubeOptions:
    """How videos are fetched by yt-dlp (``media: {source: youtube}``).

    Attributes:
        url: address of a video; ``{id}`` stands for its id.
        format: what to choose, in yt-dlp's words; one file with picture and sound needs no ffmpeg.
        path: folder of videos that are here already; null: none. Only the others are fetched.
        terms: address of the terms of use.
        accept_terms: whether they have been read and accepted.
        rate_limit: bytes per second that a job takes at most; null: no limit.
        pause: seconds between two videos, on average.
        retries: attempts after the first one at a video that is away for now.
        wait: seconds before the first of them; doubled each time.
        timeout: seconds without a sign of the server that count as a failure.
        cookies: file of cookies in Netscape's format, for what only an account may see; null: none.
    """

    url: str = "https://www.youtube.com/watch?v={id}"
    format: str = "b[ext=mp4][height<=480]/b[height<=480]/b"
    path: str | None = None
    terms: str = "https://www.youtube.com/t/terms"
    accept_terms: bool = False
    rate_limit: int | None = None
    pause: float = 3.0
    retries: int = 4
    wait: float = 30.0
    timeout: float = 60.0
    cookies: str | None = None

    def __post_init__(self) -> None:
        require("{id}" in self.url, "url", "must hold {id}, where the id of the video goes")
        require(self.pause >= 0, "pause", "must not be negative")
        require(self.wait >= 0, "wait", "must not be negative")
        require(self.retries >= 0, "retries", "must not be negative")


class Archive:
    """What became of every video: a line ``ID<tab>ok`` or ``ID<tab>REASON``, written as it happens.

    Several jobs may append to one file: a line is written at once. To have a video tried again, remove its
    line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self) -> dict[str, str]:
        """Status by video id; the last line of a killed job may be cut short and is passed over."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        return dict(line.split("\t", 1) for line in lines if line.count("\t") == 1)

    def append(self, video: str, status: str) -> None:
        """Add a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(f"{video}\t{' '.join(status.split())}\n")


def fetch_from_youtube(
    videos: Sequence[str],
    options: YoutubeOptions,
    folder: str | Path,
    there: Mapping[str, Path],
    archive: Archive,
    config: str = "media",
) -> tuple[dict[str, Path], dict[str, str]]:
    """Fetch videos to ``folder/ID.SUFFIX``, one after the other.

    Args:
        videos: ids; a leading ``v_``, as in the names of ActivityNet's files, is not part of YouTube's id.
        there: files by id that are here already; they are not fetched.
        archive: the record; videos that are gone according to it are not asked for again.
        config: file that the options come from, for messages.

    Returns:
        File by video id, and the reason by id of those that are gone.

    Raises:
        InputError: the terms are not accepted, yt-dlp is not installed, or videos are away for now.
    """
    files = {video: there[video] for video in videos if video in there}
    known = archive.read()
    gone = {v: known[v] for v in videos if v not in files and known.get(v, OK) != OK}
    wanted = [video for video in videos if video not in files and video not in gone]
    if wanted:
        demand_acceptance(options.terms, options.accept_terms, config)
    client = _Client(options, Path(folder))
    away: dict[str, str] = {}
    for index, video in enumerate(track(wanted, "fetching videos", unit="video")):
        if index:
            time.sleep(options.pause * random.uniform(0.5, 1.5))
        try:
            files[video] = _patiently(partial(client.fetch, video), options)
            archive.append(video, OK)
        except _GoneError as error:
            gone[video] = str(error)
            archive.append(video, str(error))
            logger.info("%s: %s", video, error)
        except _AwayError as error:
            away[video] = str(error)
            logger.warning("%s: %s", video, error)
            if BLOCKED.search(str(error)):
                break
    if away:
        video, reason = next(iter(away.items()))
        hint = " (see `cookies` and `pause` in docs/datasets.md)" if BLOCKED.search(reason) else ""
        problem = (
            f"{len(away)} of {len(videos)} videos cannot be fetched for now, such as {video}: {reason}{hint}"
        )
        raise InputError(config, f"{problem}; run it again, what has arrived is kept", "media")
    return files, gone


class _GoneError(Exception):
    """The video is away for good."""


class _AwayError(Exception):
    """The video is away for now. `retry_after`: seconds that the server asks to wait, if it does."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


def _patiently(fetch: Callable[[], Path], options: YoutubeOptions) -> Path:
    """Call `fetch` until it succeeds, fails for good, or has failed too often."""
    attempt = 0
    while True:
        try:
            return fetch()
        except _AwayError as error:
            if attempt == options.retries:
                raise
            seconds = options.wait * 2**attempt if error.retry_after is None else error.retry_after
            logger.warning("%s; next attempt in %.0f s", error, min(seconds, LONGEST_WAIT))
            time.sleep(min(seconds, LONGEST_WAIT))
            attempt += 1


class _Client:
    """yt-dlp, told what it needs to know."""

    def __init__(self, options: YoutubeOptions, folder: Path) -> None:
        self._options, self._folder = options, folder

    def fetch(self, video: str) -> Path:
        """Download one video; a partial file is continued."""
        try:
            import yt_dlp
        except ImportError as error:
            problem = "yt-dlp is not installed: run `pip install 'avfusion[youtube]'`"
            raise InputError("media", problem, "source") from error
        self._folder.mkdir(parents=True, exist_ok=True)
        url = self._options.url.replace("{id}", video.removeprefix("v_"))
        try:
            with yt_dlp.YoutubeDL(self._parameters(video)) as client:
                info = client.extract_info(url, download=True)
                return Path(client.sanitize_info(info)["requested_downloads"][0]["filepath"])
        except yt_dlp.utils.YoutubeDLError as error:
            reason = readable(str(error))
            if FOR_NOW.search(reason):
                raise _AwayError(reason, _retry_after(error)) from error
            raise _GoneError(reason) from error

    def _parameters(self, video: str) -> dict[str, Any]:
        name = video.replace("%", "%%")
        return {
            "format": self._options.format,
            "outtmpl": {"default": str(self._folder / f"{name}.%(ext)s")},
            "ratelimit": self._options.rate_limit,
            "socket_timeout": self._options.timeout,
            "cookiefile": self._options.cookies,
            "retries": 3,  # within one attempt; pauses between attempts are ours
            "noplaylist": True,
            "cachedir": False,
            "noprogress": True,
            "quiet": True,
            "no_warnings": True,
            "no_color": True,
            "logger": logging.getLogger("avfusion.yt_dlp"),
        }


def readable(message: str) -> str:
    """yt-dlp's message without its prefix, colours, and request for a bug report."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    text = re.sub(r"^ERROR:\s*", "", text)
    text = re.sub(r"^\[[^\]]+\]\s*(\S+:\s)?", "", text)
    text = re.split(r"[;.]\s*(?:please report this issue|See\s+https?://|Use --)", text)[0]
    return " ".join(text.split())[:200] or "yt-dlp failed without a word"


def _retry_after(error: BaseException) -> float | None:
    """Seconds in the Retry-After header of the answer that yt-dlp's error came from."""
    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        response = getattr(current, "response", None)
        value = response.headers.get("Retry-After") if response is not None else None
        if value and str(value).isdecimal():
            return float(value)
        info = getattr(current, "exc_info", None)
        pending += [getattr(current, "cause", None), current.__cause__, current.__context__]
        pending += [info[1]] if info else []
    return None
