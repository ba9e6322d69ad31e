"""A shard that was interrupted goes on behind its last finished video; a full disk leaves no shard."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from media_files import tone, write_video

from avfusion.backbones.extract import Backbone, StreamConfig, extract_shard
from avfusion.backbones.weights import BackboneConfig, load_backbone
from avfusion.data.features import FeatureStore, FeatureWriter
from avfusion.data.manifest import ManifestRow
from avfusion.errors import AvfusionError
from avfusion.media import reading
from avfusion.media.snippets import AudioGeometry, SnippetGeometry

FRAMES = SnippetGeometry(window=8, stride=4, size=32)
STREAMS = [
    StreamConfig("rgb", BackboneConfig("i3d", width=0.1, endpoint="Mixed_3c"), FRAMES, batch_size=2),
    StreamConfig("audio", BackboneConfig("vggish", width=0.05), AudioGeometry(follow=FRAMES), batch_size=2),
]


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    return {c.name: Backbone(*load_backbone(c.name, "random:0", c.backbone)) for c in STREAMS}


@pytest.fixture
def rows(tmp_path: Path) -> list[ManifestRow]:
    (tmp_path / "videos").mkdir()
    return [
        ManifestRow(name, "train", str(_clip(tmp_path / "videos" / f"{name}.mp4", index)))
        for index, name in enumerate("abcd")
    ]


def _clip(path: Path, index: int) -> Path:
    return write_video(path, np.arange(14 + index) / 20, rate=20, sound=tone(0.8, 300 + 50 * index))


class Opened:
    """Counts which videos are decoded, and breaks at one of them if asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: str = "") -> None:
        self.names: list[str] = []
        real = reading.visual_runs

        def counting(path: Path, *args: object, **options: object) -> object:
            self.names.append(path.stem)
            if path.stem == broken:
                raise RuntimeError("killed")
            return real(path, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(reading, "visual_runs", counting)


def test_finished_videos_are_not_decoded_again(
    tmp_path: Path, rows: list[ManifestRow], backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.h5", tmp_path / "out.h5"
    extract_shard(rows, STREAMS, backbones, whole)
    with monkeypatch.context() as patch:
        Opened(patch, broken="d")
        with pytest.raises(RuntimeError, match="killed"):
            extract_shard(rows, STREAMS, backbones, out)
    assert not out.exists()
    assert (tmp_path / ".out.h5.partial").exists()
    opened = Opened(monkeypatch)
    extract_shard(rows, STREAMS, backbones, out)
    assert opened.names in (["c", "d"], ["d"])  # what waited for a full batch may have been lost
    assert not (tmp_path / ".out.h5.partial").exists()
    for config in STREAMS:
        first, second = (FeatureStore([path], config.name) for path in (whole, out))
        assert sorted(first) == sorted(second) == list("abcd")
        for video in first:
            assert np.allclose(first[video].values, second[video].values, rtol=1e-4, atol=1e-6)
            assert first[video].axis == second[video].axis
    opened.names.clear()
    extract_shard(rows, STREAMS, backbones, out)
    assert opened.names == list("abcd")  # a shard that is asked for anew is made anew


def test_a_replaced_video_or_other_weights_are_not_taken_over(
    tmp_path: Path, rows: list[ManifestRow], backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        Opened(patch, broken="d")
        with pytest.raises(RuntimeError):
            extract_shard(rows, STREAMS, backbones, out)
    _clip(Path(rows[0].path), 9)
    with monkeypatch.context() as patch:
        opened = Opened(patch, broken="d")
        with pytest.raises(RuntimeError):
            extract_shard(rows, STREAMS, backbones, out)
        assert opened.names in (["a", "c", "d"], ["a", "d"])
    other = {name: Backbone(b.module, "random:1") for name, b in backbones.items()}
    opened = Opened(monkeypatch)
    extract_shard(rows, STREAMS, other, out)
    assert opened.names == list("abcd")


SCRIPT = """
    import sys, time
    from pathlib import Path
    sys.path[:0] = {path!r}
    import test_resume_extract as t
    from avfusion.media import reading
    real = reading.visual_runs
    def slow(path, *args, **options):
        print(path.stem, flush=True)
        if path.stem == "d":
            time.sleep(60)
        return real(path, *args, **options)
    reading.visual_runs = slow
    backbones = {{c.name: t.Backbone(*t.load_backbone(c.name, "random:0", c.backbone)) for c in t.STREAMS}}
    rows = [t.ManifestRow(name, "train", str(Path({videos!r}) / (name + ".mp4"))) for name in "abcd"]
    t.extract_shard(rows, t.STREAMS, backbones, {out!r})
"""


def test_a_killed_process_loses_no_finished_video(
    tmp_path: Path, rows: list[ManifestRow], backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.h5"
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script = textwrap.dedent(SCRIPT).format(path=folders, videos=str(tmp_path / "videos"), out=str(out))
    journal = tmp_path / ".out.h5.partial"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 60
        while time.monotonic() < limit and not (journal.exists() and b'"finished"' in journal.read_bytes()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    opened = Opened(monkeypatch)
    extract_shard(rows, STREAMS, backbones, out)
    assert opened.names in (["b", "c", "d"], ["c", "d"], ["d"])
    assert sorted(FeatureStore([out], "rgb")) == list("abcd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "videos"]


def test_a_disk_that_is_full_while_the_shard_is_written(
    tmp_path: Path, rows: list[ManifestRow], backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "add", full)
        with pytest.raises(AvfusionError, match=r"out\.h5: the disk is full"):
            extract_shard(rows, STREAMS, backbones, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.h5.partial", "videos"]
    opened = Opened(monkeypatch)
    extract_shard(rows, STREAMS, backbones, out)
    assert opened.names == []  # all were finished
    assert sorted(FeatureStore([out], "rgb")) == list("abcd")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
@pytest.mark.parametrize("kilobytes", [4, 8, 12, 16, 20, 24])
def test_a_disk_that_is_really_full(
    tmp_path: Path, rows: list[ManifestRow], backbones: dict[str, Backbone], kilobytes: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        with pytest.raises(AvfusionError, match="the disk is full"):
            extract_shard(rows, STREAMS, backbones, disk / "out.h5")
        assert {path.name for path in disk.iterdir()} <= {".out.h5.partial"}
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        extract_shard(rows, STREAMS, backbones, disk / "out.h5")
        assert sorted(FeatureStore([disk / "out.h5"], "rgb")) == list("abcd")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
