"""A training step of P-GCN at the published size: one dense adjacency per batch against what is read of it.

32 videos of 8 graphs of 21 proposals, 1024 channels, 20 classes: forward, losses and backward pass.

    python benchmarks/pgcn_step.py [--videos 32] [--repeats 3] [--device cpu]
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from avfusion.detectors.losses import HeadScores
from avfusion.detectors.pgcn import Options, Pgcn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from dense_pgcn import dense_score  # the reference lives with the tests

CHANNELS, CLASSES, PROPOSALS, NODES = 1024, 20, 8, 21


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_default_device(arguments.device)
    model = Pgcn(Options(dropout=0.0, graph_dropout=0.0), (CHANNELS,), CLASSES)
    graphs = torch.arange(arguments.videos * PROPOSALS * NODES).view(-1, NODES)
    inside, parts = torch.rand(graphs.numel(), CHANNELS), torch.rand(graphs.numel(), 3 * CHANNELS)
    kinds = torch.tensor([0, 1, 1, 1, 1, 1, 1, 2]).repeat(arguments.videos, 1)
    labels = torch.randint(1, CLASSES + 1, kinds.shape)
    targets = torch.randn(*kinds.shape, 2)

    def step(score: Callable[[], HeadScores]) -> float:
        model.zero_grad()
        _wait()
        started = time.perf_counter()
        model.losses(score(), kinds, labels, targets)["total"].backward()
        _wait()
        return time.perf_counter() - started

    ways = {
        "dense adjacency, all rows": lambda: dense_score(model, inside, parts, graphs),
        "small graphs, rows that are read": lambda: model.score(inside, parts, graphs),
    }
    seconds = {name: [step(score) for _ in range(arguments.repeats + 1)][1:] for name, score in ways.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    slowest = max(medians.values())
    print(f"{'training step':<36}{'median s':>10}{'fastest':>10}{'slowest':>10}{'speed':>9}")
    for name, median in medians.items():
        values = seconds[name]
        print(f"{name:<36}{median:>10.4f}{min(values):>10.4f}{max(values):>10.4f}{slowest / median:>8.1f}x")
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else _processor()
    print(
        f"{arguments.videos} videos, {arguments.repeats} repeats; {device}, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, Python {platform.python_version()}")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _processor() -> str:
    with Path("/proc/cpuinfo").open() as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
