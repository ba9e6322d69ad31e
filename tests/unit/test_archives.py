"""Archives: only the members that are wanted, from where they lie, checked, and in the folder alone."""

import io
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from web.server import Fault, WebServer
from web.zips import encrypted_zip, plain_zip

from avfusion.data.archives import extract, open_archive
from avfusion.errors import InputError

DICE = random.Random(0)
VIDEOS = {f"TH14/video_{k}.mp4": DICE.randbytes(60_000 + k) for k in range(4)}
TEXT = {"TH14/text.mp4": b"abc" * 200_000}
SECRET = "THUMOS14_REGISTERED"


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


def refusal(
    place: str, member: str | None = None, password: str | None = None, folder: Path | None = None
) -> str:
    with pytest.raises(InputError) as caught:
        archive = open_archive(place, retries=0, wait=0)
        extract(archive, member or "", (folder or Path()) / f"{member}.mp4", password)
    message = str(caught.value)
    assert message.startswith(place)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_encrypted_members_come_out_as_zipfile_says(tmp_path: Path, deflate: bool, streamed: bool) -> None:
    content = encrypted_zip(VIDEOS | TEXT, SECRET.encode(), deflate, streamed)
    path = tmp_path / "archive.zip"
    path.write_bytes(content)
    reference = zipfile.ZipFile(io.BytesIO(content))
    archive = open_archive(str(path))
    for name, plain in (VIDEOS | TEXT).items():
        assert reference.read(name, SECRET.encode()) == plain
        stem = Path(name).stem
        assert extract(archive, stem, tmp_path / f"{stem}.mp4", SECRET).read_bytes() == plain
    assert not list(tmp_path.glob(".*"))


def test_a_remote_archive_is_read_in_ranges(server: WebServer, tmp_path: Path) -> None:
    members = {f"a/{k}.bin": random.Random(k).randbytes(1_500_000) for k in range(6)}
    url = server.put("/a.zip", plain_zip(members))
    archive = open_archive(url)
    tail = server.sent("/a.zip")
    assert set(archive.members) == set("012345")
    extract(archive, "2", tmp_path / "2.bin")
    assert (tmp_path / "2.bin").read_bytes() == members["a/2.bin"]
    assert server.sent("/a.zip") == tail + 30 + 1_500_000
    extract(archive, "2", tmp_path / "2.bin")
    assert server.sent("/a.zip") == tail + 30 + 1_500_000, "what is there is not asked for again"


def test_cuts_in_a_member_are_resumed(server: WebServer, tmp_path: Path) -> None:
    members = {f"{k}.bin": random.Random(k).randbytes(2_000_000) for k in range(3)}
    url = server.put("/a.zip", plain_zip(members))
    archive = open_archive(url, wait=0, retries=2)
    server.spoil("/a.zip", Fault(), *(Fault(cut_after=k) for k in (100_000, 700_000, 3)), Fault(status=503))
    extract(archive, "0", tmp_path / "0.bin")
    assert (tmp_path / "0.bin").read_bytes() == members["0.bin"]
    assert [asked.range for asked in server.requests[2:]] == [
        "bytes=35-2000034",
        "bytes=100035-2000034",
        "bytes=800035-2000034",
        "bytes=800038-2000034",
        "bytes=800038-2000034",
    ]


def test_an_archive_that_changes_while_it_is_read(server: WebServer, tmp_path: Path) -> None:
    url = server.put("/a.zip", plain_zip({"0.bin": bytes(2_000_000), "1.bin": b"1"}))
    archive = open_archive(url)
    server.put("/a.zip", plain_zip({"0.bin": b"\1" * 2_000_000, "1.bin": b"1"}))
    with pytest.raises(InputError, match="has changed while it was being read: run it again"):
        extract(archive, "0", tmp_path / "0.bin")
    assert not (tmp_path / "0.bin").exists()


KILLED = """
import sys
from avfusion.data.archives import extract, open_archive
archive = open_archive(sys.argv[1])
for member in archive.members:
    extract(archive, member, f"{sys.argv[2]}/{member}.bin")
"""


def test_killed_while_extracting_it_goes_on_and_leaves_nothing_behind(
    server: WebServer, tmp_path: Path
) -> None:
    members = {f"{k}.bin": random.Random(k).randbytes(4 << 20) for k in range(5)}
    url = server.put("/a.zip", plain_zip(members), pace=0.002)
    for seconds in (0.1, 0.2, 0.3):
        before = len(server.requests)
        process = subprocess.Popen([sys.executable, "-c", KILLED, url, str(tmp_path)])
        while process.poll() is None and len(server.requests) < before + 2:
            time.sleep(0.01)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = {path.name: path.read_bytes() for path in tmp_path.glob("*.bin")}
    assert all(members[name] == content for name, content in done.items())
    server.requests.clear()
    subprocess.run([sys.executable, "-c", KILLED, url, str(tmp_path)], check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == members
    missing = len(members) - len(done)
    assert server.sent("/a.zip") < (missing * 4 + 2) << 20


def test_passwords(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for streamed in (False, True):
        path.write_bytes(encrypted_zip(VIDEOS, SECRET.encode(), streamed=streamed))
        assert "is encrypted: give the password" in refusal(str(path), "video_0", None, tmp_path)
        for k in range(3):
            words = refusal(str(path), "video_0", f"guess {k}", tmp_path)
            assert "the password is wrong" in words
    assert list(tmp_path.iterdir()) == [path] or not list(tmp_path.glob("*.mp4"))


@pytest.mark.parametrize(
    "name", ["../../etc/cron.d/evil.mp4", "/etc/evil.mp4", "a/../../evil.mp4", "..\\evil.mp4", "C:/evil.mp4"]
)
def test_members_that_lead_elsewhere_are_refused(server: WebServer, name: str) -> None:
    url = server.put("/a.zip", plain_zip({"good.mp4": b"1", name: b"2"}))
    assert "leads out of the archive's folder: do not trust this archive" in refusal(url)


def test_links_are_refused(server: WebServer) -> None:
    url = server.put("/a.zip", plain_zip({"good.mp4": b"1"}, links={"link.mp4": "/etc/passwd"}))
    assert "link.mp4: is a symbolic link: do not trust this archive" in refusal(url)


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    content = bytearray(plain_zip({"video.mp4": bytes(1000)}))
    content[200] ^= 1
    path.write_bytes(content)
    assert "is damaged" in refusal(str(path), "video", None, tmp_path)
    path.write_bytes(content[:500])
    assert "is no ZIP archive, or a damaged one" in refusal(str(path))
    path.write_bytes(b"")
    assert "is no ZIP archive" in refusal(str(path))
    assert "cannot be read (No such file" in refusal(str(tmp_path / "none.zip"))


def test_two_members_for_one_video(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(plain_zip({"a/video.mp4": b"1", "b/video.mp4": b"2", "__MACOSX/video.mp4": b"3"}))
    assert "video: a/video.mp4 and b/video.mp4 both claim to be it" in refusal(str(path))


def test_servers_that_cannot_do_it(server: WebServer) -> None:
    whole = server.put("/whole.zip", plain_zip({"v.mp4": bytes(2_000_000)}), ranges=False)
    assert "sends whole files only: download it, and name the file instead" in refusal(whole)
    assert "404" in refusal(server.url("/none.zip"))
    busy = server.put("/busy.zip", plain_zip({"v.mp4": b"1"}))
    server.spoil("/busy.zip", Fault(status=503))
    assert "tried 1 times" in refusal(busy)
