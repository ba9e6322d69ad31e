"""A backbone as extraction runs it: on its device, in its precision, as fast as exactness allows.

Batch norms are folded into convolutions, windows that overlap share their early layers
(`avfusion.backbones.overlap`). On CUDA, frames cross over as bytes from pinned memory and nothing waits for
the GPU but a bounded queue of calls.
"""

import copy
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avfusion.backbones.i3d import I3D
from avfusion.backbones.overlap import window_count, window_features
from avfusion.media.snippets import AudioGeometry, SnippetGeometry

Precision = Literal["auto", "float32", "tf32", "bfloat16"]
PRECISIONS = ("auto", "float32", "tf32", "bfloat16")
CALLS_AHEAD = 2  # calls that the GPU may have before it; they bound the memory


@dataclass
class Meter:
    """Where the time of an extraction went.

    Attributes:
        seconds: from start to end.
        network: seconds in which a network ran; on CUDA, by the GPU's own clock.
        waiting: seconds in which nothing was there for a network to do.
        snippets: that went through a network.
        media: seconds of media.
    """

    seconds: float = 0.0
    network: float = 0.0
    waiting: float = 0.0
    snippets: int = 0
    media: float = 0.0
    _started: float = field(default_factory=time.perf_counter, repr=False)

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count the block as waiting."""
        started = time.perf_counter()
        yield
        self.waiting += time.perf_counter() - started

    def stop(self) -> None:
        """The extraction is done."""
        self.seconds = time.perf_counter() - self._started

    def __str__(self) -> str:
        speed = self.media / self.seconds if self.seconds else 0.0
        busy, idle = (100 * part / (self.seconds or 1) for part in (self.network, self.waiting))
        bound = "decoding" if self.waiting > self.network else "the network"
        return (
            f"{self.snippets} snippets of {self.media:.1f} s of media in {self.seconds:.1f} s "
            f"({speed:.1f}x real time): the network was busy {busy:.0f}% of the time and waited {idle:.0f}%; "
            f"{bound} bounds it"
        )


class Network:
    """A backbone ready to run; call it with the pieces that go through together.

    Args:
        module: I3D or VGGish; it is not changed.
        geometry: of the snippets.
        device: torch device.
        precision: "float32"; "tf32" (CUDA: float32, but convolutions round their factors to 10 bits);
            "bfloat16" (the mean over time and space is taken in float32); "auto": bfloat16 on CUDA, else
            float32. VGGish is always run in float32.
        batch_size: snippets per call; on CUDA, shorter pieces are filled up to it: all calls are alike.
        compiled: use `torch.compile` (I3D on CUDA).
        meter: to count with.
    """

    def __init__(
        self,
        module: nn.Module,
        geometry: SnippetGeometry | AudioGeometry,
        device: str,
        precision: Precision = "auto",
        batch_size: int = 1,
        compiled: bool = False,
        meter: Meter | None = None,
    ) -> None:
        self.precision = resolve(precision, device)
        self._geometry, self._device, self._batch = geometry, torch.device(device), batch_size
        self._cuda, self._meter = self._device.type == "cuda", meter or Meter()
        self._calls: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._module = copy.deepcopy(module).eval().requires_grad_(False)
        self._windows: Callable[..., Tensor] = window_features
        self._dtype = torch.float32
        if isinstance(self._module, I3D):
            self._module.fold()
            self._dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
            if self._cuda:
                self._module = self._module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
                self._windows = torch.compile(window_features, dynamic=False) if compiled else window_features
        else:
            self._module = self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._module = self._module.to(self._device, self._dtype)

    def piece(self, values: NDArray[Any]) -> Tensor:
        """Frames (T, H, W, C) or examples (n, N, 96, 64) as `__call__` takes them; for the reading thread."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.pin_memory() if self._cuda else tensor

    def snippets(self, piece: Tensor) -> int:
        """Number of snippets in a piece."""
        if isinstance(self._geometry, AudioGeometry):
            return len(piece)
        return window_count(len(piece), self._geometry.window, self._geometry.stride)

    @torch.inference_mode()
    def __call__(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Features (n, channels) of every piece, on the device; there, they may not be ready yet."""
        counts = [self.snippets(piece) for piece in pieces]
        started = time.perf_counter()
        if self._cuda:
            while len(self._calls) >= CALLS_AHEAD:
                self._finish_call()
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
        with self._flags():
            sound = isinstance(self._geometry, AudioGeometry)
            values = self._sound(pieces) if sound else self._pictures(pieces, counts)
        if self._cuda:
            events[1].record()
            self._calls.append(events)
        else:
            self._meter.network += time.perf_counter() - started
        self._meter.snippets += sum(counts)
        return list(values.split(counts))

    def drain(self) -> None:
        """Wait until the device has done everything."""
        while self._calls:
            self._finish_call()

    def _finish_call(self) -> None:
        begin, end = self._calls.popleft()
        end.synchronize()
        self._meter.network += begin.elapsed_time(end) / 1000

    def _flags(self) -> AbstractContextManager[Any]:
        if not self._cuda:
            return nullcontext()
        pictures = isinstance(self._geometry, SnippetGeometry)
        return torch.backends.cudnn.flags(
            enabled=True, benchmark=pictures, deterministic=False, allow_tf32=self.precision != "float32"
        )

    def _sound(self, pieces: Sequence[Tensor]) -> Tensor:
        """Mean embedding of the log-mel examples of each snippet."""
        examples = torch.cat([piece.to(self._device, non_blocking=True) for piece in pieces])
        batch, count = examples.shape[:2]
        embeddings: Tensor = self._module(examples.reshape(batch * count, 1, *examples.shape[2:]))
        return embeddings.reshape(batch, count, -1).mean(dim=1)

    def _pictures(self, pieces: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
        geometry = self._geometry
        assert isinstance(geometry, SnippetGeometry)
        if self._cuda:  # one by one, each filled up: all calls have one shape
            length = geometry.window + (self._batch - 1) * geometry.stride
            runs = [[_filled(p.to(self._device, non_blocking=True), length)] for p in pieces]
        else:
            runs = [list(pieces)]
        values = [self._crops_of(run) for run in runs]
        if self._cuda:
            values = [value[:count] for value, count in zip(values, counts, strict=True)]
        return torch.cat(values).float()

    def _crops_of(self, frames: Sequence[Tensor]) -> Tensor:
        """Features of all windows in runs of frames, averaged over the crops."""
        geometry = self._geometry
        assert isinstance(geometry, SnippetGeometry) and isinstance(self._module, I3D)
        total: Tensor | None = None
        count = 0
        for cut in crops(frames, geometry):
            clips = [self._input(clip) for clip in cut]
            values = self._windows(self._module, clips, geometry.window, geometry.stride).float()
            total, count = values if total is None else total + values, count + 1
        assert total is not None
        return total / count

    def _input(self, frames: Tensor) -> Tensor:
        """Frames (T, H, W, C) as clip (C, T, H, W); on CUDA channels stay last in memory."""
        clip = frames.movedim(-1, 0)
        return _scaled(clip if self._cuda else clip.contiguous()).to(self._dtype)


def resolve(precision: Precision, device: str) -> Precision:
    """What "auto" means on a device; other choices stay as they are."""
    if precision != "auto":
        return precision
    return "bfloat16" if torch.device(device).type == "cuda" else "float32"


def visual_input(clips: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """Clips (B, T, H, W, C) of eight-bit RGB or flow as I3D takes them: (B, C, T, H, W) in [-1, 1]."""
    return _scaled(torch.from_numpy(clips).to(device).movedim(-1, -4).contiguous())


def crops(frames: Sequence[Tensor], geometry: SnippetGeometry) -> Iterator[list[Tensor]]:
    """The squares that a network sees of runs of frames (T, H, W, C): for every crop, the runs cut to it.

    Ten crops: the middle, the corners, and the mirror images of these; of mirrored flow the horizontal part
    changes its sign (in eight bits, v becomes 255 - v), as published.
    """
    if geometry.crops == "centre":
        yield list(frames)
        return
    for place in ("centre", "top left", "top right", "bottom left", "bottom right"):
        cut = [_at(place, clip, geometry.size) for clip in frames]
        yield cut
        yield [_mirrored(clip) for clip in cut]


def _scaled(values: Tensor) -> Tensor:
    """0..255 to [-1, 1]."""
    return values.to(torch.float32).mul_(2 / 255).sub_(1)


def _at(place: str, clip: Tensor, size: int) -> Tensor:
    height, width = clip.shape[1] - size, clip.shape[2] - size
    top, left = height // 2, width // 2
    if place != "centre":
        top, left = height * place.startswith("bottom"), width * place.endswith("right")
    return clip[:, top : top + size, left : left + size]


def _mirrored(clip: Tensor) -> Tensor:
    clip = clip.flip(2)
    if clip.shape[3] == 2:
        clip[..., 0] = 255 - clip[..., 0]
    return clip


def _filled(frames: Tensor, length: int) -> Tensor:
    """Frames up to `length`, the last one repeated."""
    missing = length - len(frames)
    return torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])]) if missing > 0 else frames
