"""Downloads: resumed, verified, in place only when right, whatever the server does."""

import email.utils
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from web.server import Fault, WebServer

from avfusion.data import web
from avfusion.data.download import download
from avfusion.errors import InputError

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting takes no time; how long it would have taken is in the list."""
    seconds: list[float] = []
    monkeypatch.setattr(web.time, "sleep", seconds.append)
    return seconds


def refusal(url: str, path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        download(url, path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"{url}: ")
    assert "\n" not in message
    assert not path.exists()
    return message


def only(path: Path) -> None:
    """The file is there and right, and nothing else was left."""
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_a_file_arrives_whole_and_is_not_asked_for_again(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file.bin", CONTENT), tmp_path / "deep" / "file.bin"
    for known in ({}, {"size": len(CONTENT)}, {"sha256": SHA256.upper()}, {"git_blob": GIT_BLOB}):
        assert download(url, path, **known) == path  # type: ignore[arg-type]
    only(path)
    assert len(server.requests) == 1


def test_git_blob_is_what_git_says(server: WebServer, tmp_path: Path) -> None:
    url = server.put("/hello", b"hello\n")
    download(url, tmp_path / "hello", git_blob="ce013625030ba8dba906f756967f9e9ca394464a")


def test_redirects_are_followed(server: WebServer, tmp_path: Path) -> None:
    server.put("/there", CONTENT)
    url = server.redirect("/here", server.redirect("/further", "/there"))
    server.spoil("/there", Fault(cut_after=1_500_000))
    download(url, tmp_path / "file", wait=0)
    only(tmp_path / "file")
    assert server.sent("/there") == len(CONTENT)


def test_cut_connections_are_resumed_and_no_byte_comes_twice(server: WebServer, tmp_path: Path) -> None:
    url = server.put("/file", CONTENT)
    places = random.Random(1).choices(range(1, 300_000), k=20)
    server.spoil("/file", *(Fault(cut_after=place, reset=i % 3 == 0) for i, place in enumerate(places)))
    download(url, tmp_path / "file", sha256=SHA256, wait=0, retries=1)
    only(tmp_path / "file")
    assert len(server.requests) == 21
    assert all(asked.status == 206 for asked in server.requests[1:])
    lost_to_resets = 7 * 300_000  # a reset discards what the client has not read
    assert server.sent("/file") <= len(CONTENT) + lost_to_resets
    assert server.requests[-1].range is not None


def test_orderly_cuts_lose_nothing(server: WebServer, tmp_path: Path) -> None:
    url = server.put("/file", CONTENT)
    server.spoil("/file", *(Fault(cut_after=place) for place in (1, 99_999, 1_234_567)))
    download(url, tmp_path / "file", wait=0)
    only(tmp_path / "file")
    assert server.sent("/file") == len(CONTENT)


FETCH = "import sys; from avfusion.data.download import download; download(*sys.argv[1:], progress=False)"


def test_killed_at_20_random_places_it_ends_with_one_intact_file(server: WebServer, tmp_path: Path) -> None:
    content = random.Random(3).randbytes(40 << 20)
    url, path = server.put("/file", content, pace=0.002), tmp_path / "file"
    dice = random.Random(4)
    part = tmp_path / ".file.part"
    for place in sorted(dice.choices(range(len(content) - (2 << 20)), k=20)):
        process = subprocess.Popen([sys.executable, "-c", FETCH, url, str(path)])
        while process.poll() is None and not (part.exists() and part.stat().st_size >= place):
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not path.exists()
        assert content.startswith(part.read_bytes())
    download(url, path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    asked = [entry.range for entry in server.requests]
    assert asked[0] is None
    # What had been kept was never asked for again.
    starts = [int(entry.removeprefix("bytes=").removesuffix("-")) for entry in asked if entry]
    assert starts == sorted(starts)
    assert starts[-1] > 0


def test_an_incomplete_file_is_finished_by_the_next_call(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file", CONTENT), tmp_path / "file"
    server.spoil("/file", Fault(cut_after=2_000_000))
    assert "run it again" in refusal(url, path, retries=0)
    assert (tmp_path / ".file.part").stat().st_size == 2_000_000
    download(url, path)
    only(path)
    assert server.requests[-1].range == "bytes=2000000-"
    assert server.sent("/file") == len(CONTENT)


def test_a_file_that_changed_in_between_starts_over(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file", bytes(len(CONTENT))), tmp_path / "file"
    server.spoil("/file", Fault(cut_after=2_000_000))
    refusal(url, path, retries=0)
    server.put("/file", CONTENT)
    download(url, path)
    only(path)


def test_a_file_that_became_shorter_starts_over(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file", bytes(4_000_000), validators=False), tmp_path / "file"
    server.spoil("/file", Fault(cut_after=3_500_000))
    refusal(url, path, retries=0, sha256=SHA256)
    server.put("/file", CONTENT, validators=False)
    download(url, path, sha256=SHA256, wait=0)
    only(path)


def test_without_etag_only_a_known_hash_lets_it_go_on(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file", CONTENT, validators=False), tmp_path / "file"
    for known, sent in (({}, len(CONTENT) + 1_000_000), ({"sha256": SHA256}, len(CONTENT))):
        server.requests.clear()
        server.spoil("/file", Fault(cut_after=1_000_000))
        download(url, path, wait=0, **known)  # type: ignore[arg-type]
        only(path)
        assert server.sent("/file") == sent
        path.unlink()


def test_parts_that_do_not_fit_together_start_over(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file", CONTENT, validators=False), tmp_path / "file"
    server.spoil("/file", Fault(lie=bytes(len(CONTENT)), cut_after=1_000_000))
    download(url, path, sha256=SHA256, wait=0)
    only(path)


def test_a_server_without_ranges_starts_over(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file", CONTENT, ranges=False), tmp_path / "file"
    server.spoil("/file", Fault(cut_after=1_000_000))
    download(url, path, wait=0)
    only(path)


def test_a_length_that_is_not_said_is_taken_from_chunks(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file", CONTENT, chunked=True), tmp_path / "file"
    server.spoil("/file", Fault(cut_after=1_000_000))
    download(url, path, wait=0)
    only(path)


@pytest.mark.parametrize("known", [{"size": len(CONTENT)}, {"sha256": SHA256}, {"git_blob": GIT_BLOB}])
def test_a_wrong_file_is_never_accepted(server: WebServer, tmp_path: Path, known: dict[str, object]) -> None:
    url = server.put("/file", CONTENT[:-1])
    message = refusal(url, tmp_path / "file", **known)
    assert "another file" in message
    assert not list(tmp_path.iterdir())


def test_a_wrong_length_is_never_accepted(server: WebServer, tmp_path: Path) -> None:
    url = server.put("/file", CONTENT)
    server.spoil("/file", *[Fault(length=len(CONTENT) + 5)] * 3)
    message = refusal(url, tmp_path / "file", retries=0)
    assert f"cut after {len(CONTENT)} of {len(CONTENT) + 5} bytes" in message
    download(url, tmp_path / "file", wait=0, retries=3)
    only(tmp_path / "file")


def test_a_spoilt_file_in_place_is_replaced(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file", CONTENT), tmp_path / "file"
    path.write_bytes(bytes(len(CONTENT)))
    download(url, path, sha256=SHA256)
    only(path)


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "no such file: check the address"), (403, "accept the terms"), (410, "removed"), (401, "login")],
)
def test_what_stays_wrong_is_one_line_at_once(
    server: WebServer, tmp_path: Path, status: int, words: str
) -> None:
    url = server.url("/file")
    server.spoil("/file", Fault(status=status))
    message = refusal(url, tmp_path / "file")
    assert f"the server says {status}" in message
    assert words in message
    assert len(server.requests) == 1
    assert not list(tmp_path.iterdir())


def test_retry_after_is_honoured(server: WebServer, tmp_path: Path, slept: list[float]) -> None:
    url = server.put("/file", CONTENT)
    date = email.utils.formatdate(time.time() + 90, usegmt=True)
    server.spoil(
        "/file",
        Fault(status=429, headers={"Retry-After": "7"}),
        Fault(status=503, headers={"Retry-After": date}),
        Fault(status=503, headers={"Retry-After": "soon"}),
    )
    download(url, tmp_path / "file", wait=8)
    only(tmp_path / "file")
    seven, ninety, own = slept
    assert seven == 7
    assert 85 < ninety <= 90
    assert 16 <= own <= 32  # the third failure in a row: 8 * 2**2, less up to half


def test_a_server_that_asks_for_hours_is_not_waited_for(
    server: WebServer, tmp_path: Path, slept: list[float]
) -> None:
    url = server.put("/file", CONTENT)
    server.spoil("/file", Fault(status=429, headers={"Retry-After": "7200"}))
    assert "asks to wait for 2.0 hours" in refusal(url, tmp_path / "file")
    assert not slept


def test_waiting_grows_and_ends(server: WebServer, tmp_path: Path, slept: list[float]) -> None:
    url = server.put("/file", CONTENT)
    server.spoil("/file", *[Fault(status=503)] * 4)
    assert "tried 4 times" in refusal(url, tmp_path / "file", retries=3)
    assert [0.5 * 2**k <= seconds <= 2**k for k, seconds in enumerate(slept)] == [True] * 3


def test_a_server_that_is_not_there(tmp_path: Path, slept: list[float]) -> None:
    with WebServer() as server:
        url = server.url("/file")
    assert "cannot be reached (Connection refused)" in refusal(url, tmp_path / "file", retries=2)
    assert len(slept) == 2


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/file", "host/file", "http://", "http://a b/", "http://h:x/"]
)
def test_addresses_of_another_kind(tmp_path: Path, url: str) -> None:
    assert "is no address" in refusal(url, tmp_path / "file")


def test_a_web_page_in_place_of_a_file(server: WebServer, tmp_path: Path) -> None:
    url = server.put("/weights.pt", b"<html>Do you accept?</html>", kind="text/html; charset=utf-8")
    assert "a web page in place of the file" in refusal(url, tmp_path / "weights.pt")
    download(url, tmp_path / "page.html")


def test_two_processes_take_turns(server: WebServer, tmp_path: Path) -> None:
    url, path = server.put("/file", CONTENT, pace=0.01), tmp_path / "file"
    both = [subprocess.Popen([sys.executable, "-c", FETCH, url, str(path)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    only(path)
    assert server.sent("/file") == len(CONTENT)
