"""Damaged files through `probe` and `extract`: no crash, no hang, always a row with a reason or features.

The quick sample runs always; the thousand are marked slow, and take two minutes on a free core.
"""

import collections
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_files import tone, write_video

SEED = 1407
BATCH = 25  # files per process; whatever ends it is laid to the file that it was at
SCRIPT = Path(__file__).with_name("mutants.py")
sys.path.insert(0, str(SCRIPT.parent))
from mutants import SECONDS, mutants  # noqa: E402


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A whole file of each kind, with sound; real clips too where there are any."""
    folder = tmp_path_factory.mktemp("sources")
    sound, times = tone(1.5), np.arange(30) / 20
    files = [
        write_video(folder / "a.mp4", times, rate=20, sound=sound),
        write_video(folder / "b.mkv", times, rate=20, sound=sound),
        write_video(folder / "c.webm", times, rate=20, codec="libvpx"),
        write_video(
            folder / "d.avi",
            times,
            rate=20,
            codec="mpeg4",
            sound=sound,
            sound_codec="mp3",
            time_base=Fraction(1, 20),
        ),
        write_video(folder / "e.ts", times, rate=20, sound=sound),
        write_video(folder / "f.mov", times, rate=20),
    ]
    shared = os.environ.get("AVFUSION_SHARED")
    return files + (sorted(Path(shared, "media").glob("*.mp4")) if shared else [])


def test_a_sample_of_damaged_files(sources: list[Path], tmp_path: Path) -> None:
    outcomes = run(sources[:6], tmp_path, count=40, seed=SEED)
    assert outcomes["used"] >= 3
    assert outcomes["refused"] >= 10


@pytest.mark.slow
def test_a_thousand_damaged_files(sources: list[Path], tmp_path: Path) -> None:
    outcomes = run(sources, tmp_path, count=1000, seed=SEED + 1)
    print(dict(outcomes))
    assert outcomes["used"] >= 100
    assert outcomes["refused"] >= 300


def run(sources: list[Path], folder: Path, count: int, seed: int) -> collections.Counter[str]:
    """All files through `mutants.examine`, some per process.

    Returns:
        How many were used and refused, in all and by kind of damage; the largest resident set in MiB ("peak")
        and the longest time for one file ("milliseconds").
    """
    outcomes: collections.Counter[str] = collections.Counter()
    for batch in batches(mutants(sources, folder, count, seed), BATCH):
        for kind, told in zip(
            [kind for kind, _ in batch], examined([path for _, path in batch]), strict=True
        ):
            usable = told["status"] == "ok"
            outcomes["used" if usable else "refused"] += 1
            outcomes[f"{kind}: {'used' if usable else 'refused'}"] += 1
            outcomes["peak"] = max(outcomes["peak"], told["peak"])
            outcomes["milliseconds"] = max(outcomes["milliseconds"], round(1000 * told["seconds"]))
            if not usable:
                assert "features" not in (told["streams"]["rgb"], told["streams"]["flow"]), told
        for _, path in batch:
            path.unlink()
    return outcomes


def examined(paths: list[Path]) -> list[dict]:
    """What became of each file.

    Fails, and keeps the file that was at fault, if the process dies, hangs, or takes too much memory.
    """
    command = [sys.executable, "-X", "faulthandler", str(SCRIPT), *map(str, paths)]
    limit = 120 + SECONDS * len(paths)  # a file has its own limits; this is for a process that ignores them
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        output, error, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        output, error, code = (late.stdout or b"").decode(), "it hangs", -1
    told = [json.loads(line) for line in output.splitlines()]
    if code or len(told) != len(paths):
        guilty = paths[len(told)]
        kept = Path("/tmp") / f"avfusion-guilty-{guilty.name}"
        shutil.copy(guilty, kept)
        pytest.fail(f"exit status {code} at {kept}: {error[-2000:]}")
    return told


def batches(items: Iterator, size: int) -> Iterator[list]:
    while batch := list(itertools.islice(items, size)):
        yield batch
