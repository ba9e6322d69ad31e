"""Prints what reading features costs: mapped by `FeatureStore`, beside opening the shard for every video.

    python benchmarks/store.py [--folder FOLDER] [--videos N] [--shards N]

A store of the size of THUMOS14's is written first: 413 videos of 350 to 1050 snippets with 1024 channels in
four shards, 1.2 GB of random values, in FOLDER (a temporary one by default; they are removed at the end).
Every read looks at all values (their sum), at those of 100 snippets, or at none. "Cold" is after the kernel
was asked to forget the shards. Memory is that of a new process which holds the features of all videos and has
looked at them: its own, and at most resident, where mapped pages count that other processes share and that
the kernel may take back.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from harness import median_seconds, megabytes, print_table, ratio, resident, seconds

from avfusion.data.features import FeatureStore, FeatureWriter, TimeAxis, VideoFeatures

STREAM, CHANNELS, SNIPPETS = "rgb", 1024, (350, 1050)
AXIS = TimeAxis(first=1.0, stride=0.3, window=2.0)


class Reopened(Mapping[str, VideoFeatures]):
    """The plain way: the shard is opened for every video, and its values are read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._where = {}
        for path in paths:
            with h5py.File(path) as file:
                self._where |= dict.fromkeys(file[STREAM], path)

    def __getitem__(self, video: str) -> VideoFeatures:
        with h5py.File(self._where[video]) as file:
            data = file[STREAM][video]
            axis = TimeAxis(*(float(data.attrs[key]) for key in ("first", "stride", "window")))
            return VideoFeatures(data[()], axis)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def mapped(paths: Sequence[Path]) -> Mapping[str, VideoFeatures]:
    return FeatureStore(paths, STREAM)


WAYS: dict[str, Callable[[Sequence[Path]], Mapping[str, VideoFeatures]]] = {
    "reopened": Reopened,
    "mapped": mapped,
}


def write_store(folder: Path, videos: int, shards: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{shard}of{shards}.h5" for shard in range(shards)]
    for shard, path in enumerate(paths):
        with FeatureWriter(path) as out:
            out.stream(STREAM, backbone="i3d", weights="random:0")
            for video in range(shard, videos, shards):
                values = rng.random((rng.integers(*SNIPPETS), CHANNELS), dtype=np.float32)
                out.add(STREAM, f"video_{video:07}", VideoFeatures(values, AXIS))
    return paths


def read_all(store: Mapping[str, VideoFeatures], videos: Sequence[str], snippets: int | None = None) -> float:
    """Sum of all values, or of those of some snippets, of some videos one after the other."""
    return sum(float(store[video].values[:snippets].sum(dtype=np.float64)) for video in videos)


def forget(paths: Sequence[Path]) -> None:
    """Ask the kernel to drop what it holds of some files."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def print_memory(way: str, paths: Sequence[Path]) -> None:
    """By how many bytes this process's own memory and its peak grow when it holds all features."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    own, peak = resident("RssAnon"), resident("VmRSS")
    store = WAYS[way](paths)
    held = [store[video] for video in store]
    for features in held:
        features.values.sum()
    print(resident("RssAnon") - own, resident("VmHWM") - peak)


def memory(way: str, paths: Sequence[Path]) -> list[float]:
    """`print_memory` in a new process."""
    command = [sys.executable, __file__, "--memory", way, *map(str, paths)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [float(word) for word in done.stdout.split()]


def compare(paths: Sequence[Path]) -> list[list[str]]:
    """A row per way of reading: time of the plain way, of the store, and their ratio."""
    videos = sorted(Reopened(paths))
    some = list(np.random.default_rng(1).choice(videos, 1000))
    sums = {way: read_all(make(paths), videos) for way, make in WAYS.items()}
    assert sums["reopened"] == sums["mapped"], sums
    rows: list[list[str]] = []

    def row(name: str, reads: int, taken: Mapping[str, float]) -> None:
        plain, ours = (taken[way] / reads for way in WAYS)
        rows.append([name, f"{seconds(plain)} ({1 / plain:,.0f}/s)", f"{seconds(ours)} ({1 / ours:,.0f}/s)"])
        rows[-1].append(ratio(plain, ours))

    cold = {}
    for way, make in WAYS.items():
        forget(paths)
        cold[way] = median_seconds(lambda make=make: read_all(make(paths), videos), repeat=1, warm_up=0)
    row("a new store, every video once, cold", len(videos), cold)
    once = {way: median_seconds(lambda m=make: read_all(m(paths), videos), 3) for way, make in WAYS.items()}
    row("a new store, every video once", len(videos), once)
    stores = {way: make(paths) for way, make in WAYS.items()}
    for name, snippets in (("all values", None), ("100 snippets", 100), ("none of the values", 0)):
        taken = {}
        for way, store in stores.items():
            taken[way] = median_seconds(lambda store=store, n=snippets: read_all(store, some, n), 3)
        row(f"any video of an open store, {name}", len(some), taken)
    amounts = {way: memory(way, paths) for way in WAYS}
    for name, (plain, ours) in zip(
        ("memory of its own, all features held", "... at most resident, shared pages included"),
        zip(*amounts.values(), strict=True),
        strict=True,
    ):
        rows.append([name, megabytes(plain), megabytes(ours), ratio(plain, max(ours, 1.0))])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the store is written")
    parser.add_argument("--videos", type=int, default=413)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--memory", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print_memory(args.memory[0], [Path(path) for path in args.memory[1:]])
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = write_store(Path(folder), args.videos, args.shards)
        total = sum(path.stat().st_size for path in paths)
        title = f"Reading features ({args.videos} videos in {args.shards} shards, {total / 1e9:.2f} GB)"
        print_table(title, ["per read", "opened every time", "mapped", "ratio"], compare(paths))


if __name__ == "__main__":
    main()
