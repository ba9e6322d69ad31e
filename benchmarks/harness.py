"""What the benchmarks share: a clock, the peak of memory, and a table that says where it was measured."""

import datetime
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def median_seconds(run: Callable[[], Any], repeat: int = 5, warm_up: int = 1) -> float:
    """Median seconds of a call on the CPU."""
    for _ in range(warm_up):
        run()
    taken = []
    for _ in range(repeat):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def median_gpu_seconds(run: Callable[[], Any], budget: float = 1.0) -> float:
    """Median seconds that the GPU takes for a call: replays of a CUDA graph, `budget` seconds in all.

    What Python and the dispatcher take between two kernels is in no replay; `median_call_seconds` has it. A
    graph has ten calls where they are short, as starting one takes some microseconds of its own.
    """
    for _ in range(3):  # compiles, tunes and allocates
        run()
    inner, repeat = _repetitions(run, budget)
    graph = _captured(run, inner)
    graph.replay()
    return _median_event_seconds(graph.replay, inner, repeat) / inner


def median_call_seconds(run: Callable[[], Any], budget: float = 1.0) -> float:
    """Median seconds per call as Python makes it, one after the other: the slower of the GPU and its host."""
    for _ in range(3):  # compiles, tunes and allocates
        run()
    inner, repeat = _repetitions(run, budget)
    return _median_event_seconds(run, inner, repeat)


def kernel_seconds(run: Callable[[], Any], calls: int = 10) -> float:
    """Seconds that the GPU's kernels and copies take per call, one by one and added up, as the profiler says.

    For what cannot be captured, such as torchvision's deformable convolution: its kernels run on the default
    stream whatever the current one is, so that a graph would leave them out.
    """
    for _ in range(3):  # compiles, tunes and allocates
        run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    taken = sum(event.self_device_time_total for event in profiled.key_averages())
    return float(taken) / 1e6 / calls


def _captured(run: Callable[[], Any], calls: int) -> torch.cuda.CUDAGraph:
    """A graph of some calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, tunes and allocates
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    return graph


def _repetitions(run: Callable[[], Any], budget: float) -> tuple[int, int]:
    """How many calls to time together, and how often."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    calls = budget / (time.perf_counter() - begin)
    return (10, 20) if calls >= 200 else (1, max(3, min(20, int(calls))))


def _median_event_seconds(run: Callable[[], Any], inner: int, repeat: int) -> float:
    taken = []
    for _ in range(repeat):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(inner):
            run()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3 / inner)
    return statistics.median(taken)


def peak_gpu_bytes(run: Callable[[], Any]) -> int:
    """Most bytes that a call holds on the GPU beyond what was there before."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak_cpu_bytes(script: Path, name: str) -> int:
    """Most resident bytes that case `name` of a benchmark adds to what was there before, in a new process.

    The script must answer ``--peak NAME`` by calling `print_growth` on the case.
    """
    command = [sys.executable, str(script), "--peak", name]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def print_growth(run: Callable[[], Any]) -> None:
    """Print by how many bytes the resident set grows at most during a call (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest value so far
    before = resident("VmRSS")
    run()
    print(resident("VmHWM") - before)


def resident(field: str) -> int:
    """A figure of this process in bytes, such as VmHWM or RssAnon (Linux)."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


def machine() -> str:
    """One line on where the figures are from."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    parts = [f"{model}, {torch.get_num_threads()} threads (of {os.cpu_count()} cores)"]
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    parts += [f"torch {torch.__version__}", f"Python {platform.python_version()}"]
    return "; ".join([*parts, datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")])


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table under its title and the machine."""
    print(f"### {title}\n\n{machine()}\n")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for line in (head, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
    print(flush=True)


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    return (
        f"{value:.2f} s"
        if value >= 1
        else f"{value * 1e3:.3g} ms"
        if value >= 1e-3
        else f"{value * 1e6:.3g} us"
    )


def ratio(slow: float, fast: float) -> str:
    """How many times as much the first is."""
    return f"{slow / fast:.1f}x"


def megabytes(value: float) -> str:
    """An amount of memory."""
    return f"{value / 1e6:.1f} MB"
