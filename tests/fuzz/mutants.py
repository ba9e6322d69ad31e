"""Damaged media files, each made from a whole one by a seeded change; and what becomes of them."""

import json
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

SECONDS = 60  # that a file may take, of processor time and by the clock
BYTES = 2 * 2**30  # of address space, beyond what imports take (3 GB with a CUDA build of torch)


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    """Up to 200 bits turned over, anywhere or within one stretch."""
    damaged = bytearray(content)
    begin, end = sorted(rng.sample(range(len(content)), 2)) if rng.random() < 0.5 else (0, len(content) - 1)
    for _ in range(rng.choice([1, 3, 20, 200])):
        damaged[rng.randint(begin, end)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def flip_header(content: bytes, rng: random.Random) -> bytes:
    """Bytes of the beginning or the end replaced: there are the tables of most containers."""
    damaged = bytearray(content)
    stretch = range(min(2000, len(content)))
    places = stretch if rng.random() < 0.5 else range(max(0, len(content) - 6000), len(content))
    for _ in range(rng.choice([1, 4, 30])):
        damaged[rng.choice(places)] = rng.randrange(256)
    return bytes(damaged)


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: int(len(content) * rng.random())]


def behead(content: bytes, rng: random.Random) -> bytes:
    return content[int(len(content) * rng.random() ** 3) :]


def cut_out(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.sample(range(len(content)), 2))
    return content[:begin] + content[end:]


def blank(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.sample(range(len(content)), 2))
    return content[:begin] + bytes(end - begin) + content[end:]


def repeat(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.sample(range(len(content)), 2))
    return content[:end] + content[begin:]


def shuffle(content: bytes, rng: random.Random) -> bytes:
    """Blocks in another order, as a broken file system may leave them."""
    size = rng.choice([512, 4096])
    blocks = [content[i : i + size] for i in range(0, len(content), size)]
    rng.shuffle(blocks)
    return b"".join(blocks)


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def noise(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([1, 100, 10_000]))


def picture(content: bytes, rng: random.Random) -> bytes:
    """An image under the name of a video."""
    import cv2

    kind = rng.choice([".png", ".jpg", ".bmp", ".webp", ".tiff"])
    values = np.frombuffer(rng.randbytes(48 * 64 * 3), np.uint8).reshape(48, 64, 3)
    return bytes(cv2.imencode(kind, values)[1])


def text(content: bytes, rng: random.Random) -> bytes:
    """What a server sends in place of a video, or a list that names other files."""
    return rng.choice(
        [
            b"<!DOCTYPE html><html><body>404</body></html>",
            b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n#EXT-X-ENDLIST\n",
            b"ffconcat version 1.0\nfile '/etc/passwd'\n",
            b"[playlist]\nFile1=http://127.0.0.1:1/x\n",
            b"{}",
        ]
    )


def whole(content: bytes, rng: random.Random) -> bytes:
    """Only renamed."""
    return content


MUTATIONS = (
    *[flip_bits] * 3, *[flip_header] * 3, *[truncate] * 2,
    behead, cut_out, blank, repeat, shuffle, empty, noise, picture, text, whole,
)  # fmt: skip
SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".ts", ".flv", ".wmv", ".mpg")


def mutants(sources: Sequence[Path], folder: Path, count: int, seed: int) -> Iterator[tuple[str, Path]]:
    """Write `count` damaged files one by one: (name of the change, path)."""
    for index in range(count):
        rng = random.Random(f"{seed}:{index}")
        source, mutation = rng.choice(sources), MUTATIONS[index % len(MUTATIONS)]
        suffix = rng.choice(SUFFIXES) if rng.random() < 0.3 else source.suffix
        path = folder / f"{index:04}{suffix}"
        path.write_bytes(mutation(source.read_bytes(), rng))
        yield mutation.__name__, path


def examine(paths: Sequence[str]) -> None:
    """Probe and extract files in this process; a line of JSON per file tells what became of it.

    The limits end the process: the caller then knows which file was at fault.
    """
    from avfusion.backbones.extract import Backbone, StreamConfig, extract_video
    from avfusion.backbones.weights import BackboneConfig, load_backbone
    from avfusion.data.features import VideoFeatures
    from avfusion.media.inspect import inspect_videos
    from avfusion.media.listing import ListedVideo
    from avfusion.media.snippets import AudioGeometry, SnippetGeometry

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    av.logging.set_level(None)
    frames = SnippetGeometry(window=8, stride=8, size=32)
    small = BackboneConfig("i3d", width=0.05, endpoint="Mixed_3b")
    streams = [
        StreamConfig("rgb", small, frames),
        StreamConfig("flow", small, frames, flow="dis"),
        StreamConfig("audio", BackboneConfig("vggish", width=0.05), AudioGeometry()),
    ]
    backbones = {c.name: Backbone(*load_backbone(c.name, "random:0", c.backbone)) for c in streams}
    for path in paths:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, resource.RLIM_INFINITY))
        signal.alarm(SECONDS)  # ends the process, like the other limits
        begin = time.monotonic()
        (row,) = inspect_videos([ListedVideo("v", "test", path)])
        assert row.status and "\n" not in row.status, path
        results = extract_video(path, streams, backbones)
        told = {}
        for name, result in results.items():
            if isinstance(result, VideoFeatures):
                assert len(result.values) and np.isfinite(result.values).all(), path
                told[name] = "features"
            else:
                assert result and "\n" not in result, path
                told[name] = result
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        taken = time.monotonic() - begin
        facts = {"path": path, "status": row.status, "streams": told, "peak": peak, "seconds": taken}
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    examine(sys.argv[1:])
