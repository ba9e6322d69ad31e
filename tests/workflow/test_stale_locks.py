"""After SIGKILL, the same command again must end as if nothing had happened, without --unlock."""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

import pytest
from snakemake_runs import PROFILE, ROOT, Scratch

WORKFLOW = ROOT / "workflow"
HERE = Path(__file__).parent
TOTAL = "".join(f"first half, second half of {n}\n" for n in range(4))
HOLD = "import sys, pathlib, time; sys.path.insert(0, sys.argv[1]); from stale_locks import join_the_living; "
JOIN = HOLD + "print(join_the_living(pathlib.Path(sys.argv[2])), flush=True); time.sleep(60)"


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    config = ("--config", f"workflow={WORKFLOW}", f"sources={ROOT / 'src'}")
    return Scratch(tmp_path, HERE / "kill" / "Snakefile", config, PROFILE)


def jobs_of(folder: Path, script: bytes = b"") -> list[int]:
    """Processes that run in a folder, with `script` in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder and script in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("seed", range(2))
def test_killing_snakemake_at_any_moment(scratch: Scratch, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(2):
        process = scratch.start()
        time.sleep(generator.uniform(0.2, 3.0))
        process.kill()
        process.wait()
    deadline = time.monotonic() + 5
    while jobs_of(scratch.folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert jobs_of(scratch.folder) == [], "jobs outlived Snakemake"
    scratch.run()
    assert (scratch.folder / "total.txt").read_text() == TOTAL
    assert "Nothing to be done" in scratch.run()


def test_killing_a_job(scratch: Scratch) -> None:
    process = scratch.start()
    while not (victims := jobs_of(scratch.folder, b".part.py")):
        assert process.poll() is None, "ended before a job was seen"
        time.sleep(0.02)
    time.sleep(random.Random(0).uniform(0, 0.3))
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    assert not (scratch.folder / "total.txt").exists()
    scratch.run()
    assert (scratch.folder / "total.txt").read_text() == TOTAL


def hold(state: Path) -> "tuple[Popen[str], str]":
    """A process that counts itself among the living, and whether it removed locks."""
    process = Popen([sys.executable, "-c", JOIN, str(WORKFLOW), str(state)], stdout=-1, text=True)
    assert process.stdout
    return process, process.stdout.readline().strip()


def test_locks_stay_while_another_process_lives(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "0.input.lock"
    lock.parent.mkdir()
    first, _ = hold(tmp_path)
    try:
        lock.write_text("results/a\n")
        second, removed = hold(tmp_path)
        second.kill()
        second.wait()
        assert removed == "False"
        assert lock.exists()
    finally:
        first.kill()
        first.wait()
    third, removed = hold(tmp_path)
    third.kill()
    third.wait()
    assert removed == "True"
    assert not lock.exists()


def test_locks_stay_if_another_machine_may_hold_them(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "0.output.lock"
    lock.parent.mkdir()
    lock.write_text("results/a\n")
    (tmp_path / "avfusion.alive").write_text("another-machine\n")
    process, removed = hold(tmp_path)
    process.kill()
    process.wait()
    assert removed == "False"
    assert lock.exists()
