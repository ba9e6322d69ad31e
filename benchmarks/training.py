"""How long training takes at THUMOS14's size.

    python benchmarks/training.py muses                     # CPU: a pass against the plain formulation
    python benchmarks/training.py muses --device cuda       # the complete published schedule
    python benchmarks/training.py gtad --device cuda --limit 300

On a CPU, MUSES goes through the videos once with the engine and once in the plain formulation
(plain_muses.py), with the same weights, order and proposals and without dropout, so that the losses can be
compared. In float32 they agree to roundings until some input of a ReLU is so near zero that roundings decide
about its gradient, which later steps amplify; with ``--float64`` none is. How much the engine gains depends
on the proposals: it computes only what they read, and the table says how much that is. On CUDA, the published
schedule of a detector runs from beginning to end, unless it would take longer than ``--limit``: then as many
epochs as fit, and the rest is extrapolated from their mean, which the table says. An epoch of two-stage
detectors goes through the videos 20 times.
"""

import argparse
import csv
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import plain_muses
import thumos
import torch

from avfusion.detectors import DETECTORS, build_detector
from avfusion.detectors.base import TOTAL
from avfusion.detectors.muses import Muses
from avfusion.engine.optimise import learning_rate, make_optimiser, set_rate, take_step
from avfusion.engine.schedule import TrainingOptions, chunks, draw_order, published_training
from avfusion.engine.train import collect_videos, train
from avfusion.memory import keep_freed_memory
from avfusion.seeding import derive

CHANNELS = {"muses": (1024, 8), "pgcn": (1024, 8), "gtad": (2048, 5)}  # features, frames per snippet
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detector", choices=sorted(DETECTORS), nargs="?", default="muses")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--videos", type=int, default=thumos.VIDEOS, help="fewer than THUMOS14 has")
    parser.add_argument("--limit", type=float, default=600, help="seconds that a schedule may take")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--float64", action="store_true", help="CPU: both formulations in float64")
    parser.add_argument("--at-once", type=int, help="batches computed together; default: those of a step")
    parser.add_argument("--repeat", type=int, default=1, help="CPU: passes of each formulation, alternating")
    parser.add_argument("--threads", type=int, default=2, help="CPU: threads of both formulations")
    arguments = parser.parse_args()
    data = thumos.make(*CHANNELS[arguments.detector], arguments.videos)
    snippets = sum(len(video.values) for video in data.features.values())
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {data.origin}:")
    print(f"{len(data.features)} videos, {snippets} snippets of {CHANNELS[arguments.detector][0]} channels")
    if arguments.device == "cuda":
        print(torch.cuda.get_device_name())
        schedule(arguments, data)
    elif arguments.detector == "muses":
        torch.set_num_threads(arguments.threads)
        keep_freed_memory()  # as `train` does
        print(f"{arguments.threads} threads")
        against_plain(arguments, data)
    else:
        schedule(arguments, data)


# --- the complete schedule


def schedule(arguments: argparse.Namespace, data: thumos.Data) -> None:
    """Time the published schedule of a detector, or as much of it as the limit allows."""
    options = published_training(arguments.detector)
    changes = {"precision": arguments.precision, "at_once": arguments.at_once}
    first = run(arguments, data, changes | {"epochs": 1, "steps": ()})  # also warms up
    epoch = first["epochs"][0]
    fitting = max(1, min(options.epochs, int(arguments.limit / epoch)))
    with gpu_load(arguments.device) as load:
        found = run(arguments, data, changes | {"epochs": fitting})
    seconds = sum(found["epochs"])
    videos = len(data.features) * options.passes
    whole, how = found["wall"], "measured"
    if fitting < options.epochs:
        whole += seconds / fitting * (options.epochs - fitting)
        how = f"EXTRAPOLATED from {fitting} of {options.epochs} epochs"
    print(f"\n{arguments.detector}: {options.epochs} epochs of {options.passes} passes, {options.precision=}")
    print(f"  first epoch, warm-up included   {epoch:10.2f} s")
    print(f"  an epoch, median                {statistics.median(found['epochs']):10.2f} s")
    print(f"  complete schedule               {whole:10.1f} s  ({how})")
    print(f"  of it before the first epoch    {found['wall'] - seconds:10.2f} s  (preparation and writing)")
    print(f"  videos per second               {videos * fitting / seconds:10.1f}")
    print(f"  loss, first and last epoch      {found['loss'][0]:10.4f} {found['loss'][-1]:.4f}")
    if load:
        print(f"  time that the GPU is busy       {statistics.mean(load):10.0f} %  ({len(load)} readings)")


def run(arguments: argparse.Namespace, data: thumos.Data, training: dict[str, Any]) -> dict[str, Any]:
    """Train, and read the log: seconds and loss of every epoch, and all seconds together."""
    config = {"detector": arguments.detector, "training": training}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        begin = time.perf_counter()
        train(
            *(config, data.features, data.proposals, data.annotations, SEED, Path(folder) / "checkpoint.pt"),
            *(log, arguments.device),
        )
        wall = time.perf_counter() - begin
        rows = list(csv.DictReader(log.open(encoding="utf-8")))
    return {
        "epochs": [float(row["seconds"]) for row in rows],
        "loss": [float(row["total"]) for row in rows],
        "wall": wall,
    }


@contextmanager
def gpu_load(device: str) -> Iterator[list[float]]:
    """Percent of the time in which a kernel ran, as nvidia-smi reads it twice a second."""
    readings: list[float] = []
    if device != "cuda" or shutil.which("nvidia-smi") is None:
        yield readings
        return
    index = torch.cuda.current_device()
    command = ["nvidia-smi", f"--id={index}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    watcher = subprocess.Popen([*command, "--loop-ms=500"], stdout=subprocess.PIPE, text=True)
    try:
        yield readings
    finally:
        watcher.terminate()
        readings += [float(line) for line in watcher.communicate()[0].split() if line.isdigit()]


# --- against the plain formulation, on a CPU


def against_plain(arguments: argparse.Namespace, data: thumos.Data) -> None:
    """Time passes through the videos in both formulations, and compare their losses."""
    options = TrainingOptions(epochs=1, passes=1, at_once=arguments.at_once)
    seconds: dict[str, list[float]] = {"engine": [], "plain": []}
    curves: dict[str, list[float]] = {}
    computed: dict[str, int] = {}
    for _ in range(arguments.repeat):
        for name in seconds:
            taken, curves[name], computed[name] = one_pass(name, options, data, arguments.float64)
            seconds[name].append(taken)
    engine, plain = (statistics.median(seconds[name]) for name in ("engine", "plain"))
    apart = np.abs(np.array(curves["engine"]) / curves["plain"] - 1)
    print(f"\nMUSES, one pass through {len(data.features)} videos (published: 20 an epoch), median seconds")
    print(f"  engine            {engine:8.1f}   an epoch: {20 * engine:.0f} s (20 times as long)")
    print(f"  plain formulation {plain:8.1f}   an epoch: {20 * plain:.0f} s")
    print(f"  ratio             {plain / engine:8.2f}")
    share = computed["engine"] / sum(len(video.values) for video in data.features.values())
    print(f"  the engine's backbone sees {100 * share:.0f} % as many snippets as the videos have")
    first = apart[: options.accumulate].max()
    print(f"  losses differ by at most {apart.max():.1e} (relative), before the first step by {first:.1e}")


def one_pass(
    name: str, options: TrainingOptions, data: thumos.Data, float64: bool
) -> tuple[float, list[float], int]:
    """Seconds of a pass with a step after every 32 videos, the loss of every video in turn, and the snippets
    that the backbone was called with.
    """
    videos = collect_videos(data.features, data.proposals, data.annotations)
    torch.manual_seed(derive(SEED, "network"))
    model = {"dropout": 0.0}
    detector = build_detector("muses", model, [1024], len(data.annotations.labels))
    assert isinstance(detector, Muses)
    if float64:
        detector.double()
    examples = detector.training_set(videos)
    rng = np.random.RandomState(derive(SEED, "samples"))
    optimiser = make_optimiser(detector, options)
    set_rate(optimiser, learning_rate(options, 0))
    detector.train()
    curve: list[float | torch.Tensor] = []
    lengths: list[int] = []
    detector.backbone.register_forward_hook(lambda *call: lengths.append(call[1][0].shape[2]))
    begin = time.perf_counter()
    for chunk in chunks(draw_order(len(examples), options, rng), options):
        drawn = [examples.draw_many(batch.tolist(), rng) for batch in chunk.batches]
        if name == "engine":
            losses = detector.training_steps(drawn)[TOTAL]
            (losses.sum() / options.accumulate).backward()
            curve += losses.detach().unbind()
        else:
            for (example,) in drawn:
                loss = plain_muses.losses(detector, example)[TOTAL]
                (loss / options.accumulate).backward()
                curve.append(loss.item())
        if chunk.steps:
            take_step(detector, optimiser, options)
    return time.perf_counter() - begin, [float(loss) for loss in curve], sum(lengths)


if __name__ == "__main__":
    main()
