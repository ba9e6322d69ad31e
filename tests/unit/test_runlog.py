"""What every job does around its work: its log, its errors, its end."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from avfusion.errors import InputError
from avfusion.runlog import PARENT, job

logger = logging.getLogger("avfusion")


def test_messages_and_warnings_go_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"
    with job(log):
        logger.info("half way")
        warnings.warn("a warning", stacklevel=1)
    logger.info("afterwards")
    text = log.read_text()
    assert "INFO half way" in text
    assert "a warning" in text
    assert "afterwards" not in text
    assert not [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]


def test_an_error_for_people_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, job(tmp_path / "a.log"):
        raise InputError("videos.csv", "is empty", "line 1")
    assert caught.value.code == 1
    assert capfd.readouterr().err == "avfusion: error: videos.csv: line 1: is empty\n"
    assert (tmp_path / "a.log").read_text().endswith("ERROR videos.csv: line 1: is empty\n")


def test_any_other_error_leaves_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), job(tmp_path / "a.log"):
        print(1 / 0)
    assert "ZeroDivisionError" in (tmp_path / "a.log").read_text()


def test_threads_are_what_was_asked_for(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        with job(tmp_path / "a.log", threads=3):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


CHILD = """
import sys, time
from avfusion.runlog import job
with job(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_job_ends_with_the_process_that_wants_it(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    environment = {**os.environ, PARENT: str(parent.pid)}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "a.log")]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    parent.kill()  # not waited for: a process that nobody has taken notice of yet has ended, too
    assert child.wait(timeout=10) == 1
    parent.wait()
    late = subprocess.run(command, env=environment, timeout=10, capture_output=True)
    assert late.returncode == 1
