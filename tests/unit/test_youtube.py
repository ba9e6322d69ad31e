"""yt-dlp, run for real against a server on the loopback interface: what is gone, and what is away for now."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from web.server import Fault, WebServer

from avfusion.data import youtube
from avfusion.data.youtube import Archive, YoutubeOptions, fetch_from_youtube, readable
from avfusion.errors import InputError

VIDEO = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 600


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as server:
        for name in ("a", "b", "c"):
            server.put(f"/{name}.mp4", VIDEO, kind="video/mp4")
        yield server


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(youtube.time, "sleep", seconds.append)
    return seconds


def options(server: WebServer, **changes: Any) -> YoutubeOptions:
    given = {"format": "b", "accept_terms": True, "pause": 0.0, "wait": 1.0, "timeout": 5.0}
    return YoutubeOptions(server.url("/{id}.mp4"), **(given | changes))


def fetch(server: WebServer, folder: Path, *videos: str, **changes: Any) -> Any:
    archive = Archive(folder / "archive.tsv")
    there = changes.pop("there", {})
    return fetch_from_youtube(
        videos, options(server, **changes), folder / "videos", there, archive, "an.yaml"
    )


def test_videos_arrive_and_those_that_are_gone_get_a_reason(server: WebServer, tmp_path: Path) -> None:
    files, gone = fetch(server, tmp_path, "a", "v_b", "lost", "c")
    assert {video: path.name for video, path in files.items()} == {
        "a": "a.mp4",
        "v_b": "v_b.mp4",
        "c": "c.mp4",
    }
    assert all(path.read_bytes() == VIDEO for path in files.values())
    assert list(gone) == ["lost"]
    assert "HTTP Error 404" in gone["lost"] and "ERROR" not in gone["lost"]
    assert Archive(tmp_path / "archive.tsv").read() == {
        "a": "ok",
        "v_b": "ok",
        "lost": gone["lost"],
        "c": "ok",
    }


def test_what_is_there_or_gone_is_not_asked_for_again(server: WebServer, tmp_path: Path) -> None:
    first, gone = fetch(server, tmp_path, "a", "lost")
    server.requests.clear()
    again, still_gone = fetch(server, tmp_path, "a", "lost", there=first, accept_terms=False)
    assert (again, still_gone) == (first, gone)
    assert not server.requests


def test_a_server_that_is_busy_is_tried_again(server: WebServer, tmp_path: Path, slept: list[float]) -> None:
    busy = Fault(status=429, headers={"Retry-After": "7"})
    server.spoil("/a.mp4", busy, Fault(status=503), Fault(status=503))
    files, gone = fetch(server, tmp_path, "a")
    assert files["a"].read_bytes() == VIDEO and not gone
    assert slept[0] == 7.0
    assert len(slept) >= 2


def test_what_stays_away_fails_the_job_after_the_others(
    server: WebServer, tmp_path: Path, slept: list[float]
) -> None:
    server.always = lambda path: Fault(status=429) if path == "/a.mp4" else None
    with pytest.raises(InputError) as caught:
        fetch(server, tmp_path, "a", "b", "lost", retries=2)
    message = str(caught.value)
    assert message.startswith("an.yaml: media: 1 of 3 videos cannot be fetched for now, such as a: ")
    assert "HTTP Error 429" in message and "run it again, what has arrived is kept" in message
    assert set(Archive(tmp_path / "archive.tsv").read()) == {"b", "lost"}
    assert slept.count(1.0) == 1 and slept.count(2.0) == 1
    server.always = lambda path: None
    files, _ = fetch(server, tmp_path, "a", "b", "lost", there={"b": tmp_path / "videos" / "b.mp4"})
    assert set(files) == {"a", "b"}


def test_a_cut_connection_is_continued(server: WebServer, tmp_path: Path) -> None:
    server.spoil("/a.mp4", Fault(), Fault(cut_after=70_000))
    files, _ = fetch(server, tmp_path, "a")
    assert files["a"].read_bytes() == VIDEO


def test_nothing_is_fetched_before_the_terms_are_accepted(server: WebServer, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetch(server, tmp_path, "a", accept_terms=False)
    assert "an.yaml: media.accept_terms: read the terms at https://www.youtube.com/t/terms" in str(
        caught.value
    )
    assert not server.requests


def test_pauses_between_videos(server: WebServer, tmp_path: Path, slept: list[float]) -> None:
    fetch(server, tmp_path, "a", "b", "c", pause=4.0)
    assert len([seconds for seconds in slept if 2.0 <= seconds <= 6.0]) == 2


def test_the_archive_forgives_a_line_that_was_cut_short(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive.tsv")
    archive.append("a", "ok")
    archive.append("b", "Private\nvideo\tof somebody")
    with archive.path.open("a") as stream:
        stream.write("c\tVideo unav")
    assert archive.read() == {"a": "ok", "b": "Private video of somebody"}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("ERROR: [youtube] 0dkIbKXXFzI: Video unavailable", "Video unavailable"),
        (
            "\x1b[0;31mERROR:\x1b[0m [youtube] x: Private video. Sign in; please report this issue on",
            "Private video. Sign in",
        ),
        (
            "ERROR: unable to download video data: HTTP Error 403: Forbidden",
            "unable to download video data: HTTP Error 403: Forbidden",
        ),
        ("", "yt-dlp failed without a word"),
    ],
)
def test_reasons_are_short(message: str, words: str) -> None:
    assert readable(message) == words


@pytest.mark.parametrize(
    ("message", "for_now"),
    [
        ("Video unavailable", False),
        ("Private video", False),
        ("This video has been removed by the uploader", False),
        ("The uploader has not made this video available in your country", False),
        ("HTTP Error 429: Too Many Requests", True),
        ("Sign in to confirm you're not a bot", True),
        ("Unable to download webpage: <urlopen error timed out>", True),
        ("Failed to resolve 'www.youtube.com' ([Errno -3] Temporary failure in name resolution)", True),
        ("HTTP Error 404: Not Found", False),
    ],
)
def test_what_is_gone_and_what_is_away_for_now(message: str, for_now: bool) -> None:
    assert bool(youtube.FOR_NOW.search(message)) == for_now


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="url: must hold"):
        YoutubeOptions(url="https://host/")
    with pytest.raises(ValueError, match="retries"):
        YoutubeOptions(retries=-1)
