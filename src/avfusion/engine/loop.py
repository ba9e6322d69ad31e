"""The loop of a training: from a state of progress to the last epoch, without waiting for the device."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from avfusion.detectors.base import TOTAL, Detector, TrainingSet
from avfusion.engine.device import exact_float32, uses_bfloat16
from avfusion.engine.history import Board
from avfusion.engine.optimise import learning_rate, set_rate, take_step
from avfusion.engine.resume import Keeper, Progress
from avfusion.engine.schedule import Chunk, TrainingOptions, chunks, draw_order
from avfusion.errors import AvfusionError
from avfusion.progress import track


@dataclass(frozen=True, eq=False)
class Run:
    """What a training works with; see `avfusion.engine.train`."""

    detector: Detector[Any]
    examples: TrainingSet
    options: TrainingOptions
    optimiser: torch.optim.Optimizer
    rng: np.random.RandomState
    device: torch.device


def fit(run: Run, progress: Progress, keeper: Keeper, board: Board) -> None:
    """Train until the last epoch is done; `progress` then holds the rows of the log.

    Raises:
        AvfusionError: a loss is no longer finite.
    """
    options, detector = run.options, run.detector
    half = uses_bfloat16(options.precision, run.device, detector.mixed_precision)
    detector.train()
    started = time.perf_counter() - progress.seconds
    with nullcontext() if half else exact_float32():
        for chunk in track(_chunks(run, progress), "training", _remaining(run, progress), "pass"):
            set_rate(run.optimiser, learning_rate(options, progress.epoch))
            _learn(run, chunk, progress, half)
            if chunk.steps:
                take_step(detector, run.optimiser, options)
            if chunk.last:
                run.optimiser.zero_grad()  # what is left over is dropped, as published
                _finish_epoch(progress, options, started)
                board.add(progress.rows[-1])
                started = time.perf_counter()
            progress.seconds = time.perf_counter() - started
            if chunk.steps or chunk.last:
                keeper.offer(progress)
    detector.eval()


def _learn(run: Run, chunk: Chunk, progress: Progress, half: bool) -> None:
    """Add the gradients of a chunk to those that are there, and its losses to the sums."""
    sizes = [len(batch) for batch in chunk.batches]
    drawn = iter(run.examples.draw_many(np.concatenate(chunk.batches).tolist(), run.rng))
    batches = [[next(drawn) for _ in range(size)] for size in sizes]
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=half):
        losses = run.detector.training_steps(batches)
    (losses[TOTAL].sum() / run.options.accumulate).backward()
    for name, loss in losses.items():
        summed = loss.detach().double().sum()
        progress.sums[name] = progress.sums[name] + summed if name in progress.sums else summed
    progress.done += 1
    progress.batches += len(batches)


def _chunks(run: Run, progress: Progress) -> Iterator[Chunk]:
    """What is left of all epochs. The body of the loop moves `progress` on."""
    while progress.epoch < run.options.epochs:
        if len(progress.order) == 0:
            progress.order = torch.from_numpy(draw_order(len(run.examples), run.options, run.rng))
        yield from list(chunks(progress.order.numpy(), run.options))[progress.done :]


def _remaining(run: Run, progress: Progress) -> int:
    """Number of chunks that `_chunks` will give."""
    every = sum(1 for _ in chunks(np.arange(len(run.examples) * run.options.passes), run.options))
    return every * (run.options.epochs - progress.epoch) - progress.done


def _finish_epoch(progress: Progress, options: TrainingOptions, started: float) -> None:
    """Add the row of the epoch to the log, and go on to the next one."""
    sums = {name: float(total) for name, total in progress.sums.items()}  # here the host waits for the device
    seconds = time.perf_counter() - started
    _check_finite(sums, progress.epoch)
    means = {name: total / progress.batches for name, total in sums.items()}
    rate = learning_rate(options, progress.epoch)
    progress.rows.append({"epoch": progress.epoch, "lr": rate, **means, "seconds": seconds})
    progress.epoch += 1
    progress.order, progress.done, progress.batches = progress.order[:0], 0, 0
    progress.sums = {}


def _check_finite(sums: Mapping[str, float], epoch: int) -> None:
    broken = [name for name, total in sums.items() if not math.isfinite(total)]
    if broken:
        raise AvfusionError(
            f"training failed: the {broken[0]} loss is no longer finite in epoch {epoch}; try a lower "
            "training.lr, or training.clip_norm"
        )
