"""Freed memory that stays with the process."""

import ctypes
import subprocess
import sys

import pytest

from avfusion.memory import keep_freed_memory

FAULTS = """
import resource, sys, torch
from avfusion.memory import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(40 * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> int:
    """Pages that the system had to give for forty tensors, one after the other."""
    command = [sys.executable, "-c", FAULTS, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_later_tensors_take_the_pages_of_the_first() -> None:
    assert 0 < faults("keep") < faults() / 3


def test_nothing_happens_with_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()


def test_an_older_glibc_keeps_blocks_as_large_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            calls.append((option, value))
            return int(value <= 2**25 or option == -1)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    keep_freed_memory()
    assert calls == [(-3, 2**27), (-3, 2**25), (-1, 2**31 - 1)]
