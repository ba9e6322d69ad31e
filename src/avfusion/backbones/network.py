"""A backbone as extraction runs it: on its device, in its precision, as fast as exactness allows.

Batch norms are folded into convolutions, windows that overlap share their early layers
(`avfusion.backbones.overlap`). On CUDA, frames cross over as bytes from pinned memory and nothing waits for
the GPU but a bounded queue of calls.
"""

import copy
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avfusion.backbones.i3d import I3D
from avfusion.backbones.overlap import window_features
from avfusion.backbones.packing import Part, places
from avfusion.media.flow import snippet_flow
from avfusion.media.snippets import AudioGeometry, Run, SnippetGeometry

Precision = Literal["auto", "float32", "tf32", "bfloat16"]
PRECISIONS = ("auto", "float32", "tf32", "bfloat16")
CALLS_AHEAD = 2  # calls that the GPU may have before it; they bound the memory


@dataclass
class Meter:
    """Where the time of an extraction went.

    Attributes:
        seconds: from start to end.
        network: seconds in which a network ran; on CUDA, by the GPU's own clock.
        flow: the same of optical flow that is computed beside the networks.
        waiting: seconds in which nothing was there for a network to do.
        blocked: seconds in which the GPU had enough before it.
        snippets: that went through a network.
        media: seconds of media.
        readers: videos that were read at a time.
        reading: seconds by what the readers did, all together; see `avfusion.media.reading.End`.
        reading_cpu: the same, on a core.
    """

    seconds: float = 0.0
    network: float = 0.0
    flow: float = 0.0
    waiting: float = 0.0
    blocked: float = 0.0
    snippets: int = 0
    media: float = 0.0
    readers: int = 0
    reading: dict[str, float] = field(default_factory=dict)
    reading_cpu: dict[str, float] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter, repr=False)

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count the block as waiting."""
        started = time.perf_counter()
        yield
        self.waiting += time.perf_counter() - started

    def read(self, wall: Mapping[str, float], cpu: Mapping[str, float]) -> None:
        """A reader has read a video."""
        for total, part in ((self.reading, wall), (self.reading_cpu, cpu)):
            for name, seconds in part.items():
                total[name] = total.get(name, 0.0) + seconds

    def stop(self) -> None:
        """The extraction is done."""
        self.seconds = time.perf_counter() - self._started

    def details(self) -> str:
        """Seconds of every part, in a line or two."""
        parts = [f"network {self.network:.2f} s"]
        parts += [f"flow beside it {self.flow:.2f} s"] if self.flow else []
        parts += [f"waited for readers {self.waiting:.2f} s", f"and for the GPU {self.blocked:.2f} s"]
        readers = [
            f"{name} {seconds:.2f} s ({self.reading_cpu[name]:.2f} s on a core)"
            for name, seconds in self.reading.items()
        ]
        together = "1 reader" if self.readers == 1 else f"{self.readers} readers, together"
        return f"{', '.join(parts)}\n{together}: {', '.join(readers)}"

    def __str__(self) -> str:
        speed = self.media / self.seconds if self.seconds else 0.0
        busy, idle = (100 * part / (self.seconds or 1) for part in (self.network + self.flow, self.waiting))
        bound = "decoding" if self.waiting > self.network + self.flow else "the network"
        return (
            f"{self.snippets} snippets of {self.media:.1f} s of media in {self.seconds:.1f} s "
            f"({speed:.1f}x real time): the network was busy {busy:.0f}% of the time and waited {idle:.0f}%; "
            f"{bound} bounds it"
        )


class Network:
    """A backbone ready to run; call it with what goes through together.

    Args:
        module: I3D or VGGish; it is not changed.
        geometry: of the snippets.
        device: torch device.
        precision: "float32"; "tf32" (CUDA: float32, but convolutions round their factors to 10 bits);
            "bfloat16" (the mean over time and space is taken in float32); "auto": bfloat16 on CUDA, else
            float32. VGGish is always run in float32.
        batch_size: snippets per call.
        compiled: use `torch.compile` (I3D on CUDA).
        meter: to count with.
        flow: method by which `prepare` computes the flow of grey frames; None: pieces are as they shall be.
        alike: join pieces so that all calls of I3D have one shape. By default on CUDA, which then chooses its
            algorithms once.

    Attributes:
        joint: windows across the joint of two runs in one clip, in which those of both are windows of the
            clip; None: runs stay clips of their own.
        issued: calls so far.
        finished: calls of which the features are there.
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
        flow: str | None = None,
        alike: bool | None = None,
    ) -> None:
        self.precision = resolve(precision, device)
        self._geometry, self._device, self._batch = geometry, torch.device(device), batch_size
        self._cuda, self._meter, self._flow = self._device.type == "cuda", meter or Meter(), flow
        self.joint: int | None = None
        if isinstance(geometry, SnippetGeometry) and (self._cuda if alike is None else alike):
            self.joint = -(-geometry.window // geometry.stride) - 1
        self._calls: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self.issued = self.finished = 0
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

    def piece(self, run: Run) -> Tensor:
        """What was read, as `prepare` takes it; for the reading thread."""
        kind = torch.from_numpy(np.empty(0, run.dtype)).dtype
        tensor = torch.empty(run.shape, dtype=kind, pin_memory=self._cuda)
        run.copy_to(tensor.numpy())
        return tensor

    @torch.inference_mode()
    def prepare(self, piece: Tensor, windows: int) -> Tensor:
        """A piece of so many snippets as `__call__` takes it, (T, H, W, C) or (n, N, 96, 64)."""
        if self._flow is None:
            return piece
        geometry = self._geometry
        assert isinstance(geometry, SnippetGeometry)
        with self._call("flow"):
            frames = piece.to(self._device, non_blocking=True)
            length = geometry.window + (windows - 1) * geometry.stride
            motion = snippet_flow(frames, length, self._flow)
            if geometry.crops == "centre":
                motion = _at("centre", motion, geometry.size).contiguous()
        return motion

    @torch.inference_mode()
    def __call__(self, parts: Sequence[Part[Tensor]]) -> list[Tensor]:
        """Features (count, channels) of every part, on the CPU; there once this call is `finished`."""
        with self._call("network"), self._flags():
            sound = isinstance(self._geometry, AudioGeometry)
            values = self._sound(parts) if sound else self._pictures(parts)
            values = [value.to("cpu", non_blocking=True) for value in values]
        self._meter.snippets += sum(part.count for part in parts)
        return values

    def poll(self) -> None:
        """Bring `finished` up to date."""
        while self._calls and self._calls[0][2].query():
            self._finish_call()

    def drain(self) -> None:
        """Wait until the device has done everything."""
        while self._calls:
            self._finish_call()

    @contextmanager
    def _call(self, what: str) -> Iterator[None]:
        """Give the device something to do, unless it has enough before it."""
        started = time.perf_counter()
        while len(self._calls) >= CALLS_AHEAD:
            self._finish_call()
        self._meter.blocked += time.perf_counter() - started
        if self._cuda:
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            yield
            events[1].record()
            self._calls.append((what, *events))
        else:
            started = time.perf_counter()
            yield
            self._count(what, time.perf_counter() - started)
        self.issued += 1

    def _finish_call(self) -> None:
        what, begin, end = self._calls.popleft()
        end.synchronize()
        self._count(what, begin.elapsed_time(end) / 1000)

    def _count(self, what: str, seconds: float) -> None:
        self.finished += 1
        if what == "flow":
            self._meter.flow += seconds
        else:
            self._meter.network += seconds

    def _flags(self) -> AbstractContextManager[Any]:
        if not self._cuda:
            return nullcontext()
        pictures = isinstance(self._geometry, SnippetGeometry)
        return torch.backends.cudnn.flags(
            enabled=True, benchmark=pictures, deterministic=False, allow_tf32=self.precision != "float32"
        )

    def _sound(self, parts: Sequence[Part[Tensor]]) -> list[Tensor]:
        """Mean embedding of the log-mel examples of each snippet."""
        pieces = [part.piece[part.first : part.first + part.count] for part in parts]
        examples = torch.cat([piece.to(self._device, non_blocking=True) for piece in pieces])
        batch, count = examples.shape[:2]
        embeddings: Tensor = self._module(examples.reshape(batch * count, 1, *examples.shape[2:]))
        means = embeddings.reshape(batch, count, -1).mean(dim=1)
        return list(means.split([part.count for part in parts]))

    def _pictures(self, parts: Sequence[Part[Tensor]]) -> list[Tensor]:
        geometry = self._geometry
        assert isinstance(geometry, SnippetGeometry)
        runs = []
        for part in parts:
            begin = part.first * geometry.stride
            run = part.piece[begin : begin + geometry.window + (part.count - 1) * geometry.stride]
            runs.append(run.to(self._device, non_blocking=True))
        starts = places(parts, self.joint or 0)
        values = self._crops_of(runs, starts)
        return [values[start : start + part.count] for part, start in zip(parts, starts, strict=True)]

    def _crops_of(self, runs: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
        """Features of all windows in runs of frames, averaged over the crops."""
        geometry = self._geometry
        assert isinstance(geometry, SnippetGeometry) and isinstance(self._module, I3D)
        total: Tensor | None = None
        count = 0
        for cut in crops(runs, geometry):
            joined = cut if self.joint is None else self._joined(cut, starts)
            clips = [clip.movedim(-1, 0) for clip in joined]
            if self._cuda:
                clips = [self._prepared(clip) for clip in clips]
                values = self._windows(self._module, clips, geometry.window, geometry.stride)
            else:
                values = window_features(
                    self._module, clips, geometry.window, geometry.stride, self._prepared
                )
            values = values.float()
            total, count = values if total is None else total + values, count + 1
        assert total is not None
        return total / count

    def _joined(self, runs: Sequence[Tensor], starts: Sequence[int]) -> list[Tensor]:
        """One clip of a whole batch, with each run at the place of its first window."""
        geometry = self._geometry
        assert isinstance(geometry, SnippetGeometry)
        length = geometry.window + (self._batch - 1) * geometry.stride
        clip = runs[0].new_zeros((length, *runs[0].shape[1:]))
        for run, start in zip(runs, starts, strict=True):
            clip[start * geometry.stride :][: len(run)] = run
        return [clip]

    def _prepared(self, frames: Tensor) -> Tensor:
        """Bytes (..., C, T, H, W) as the network takes them; on CUDA channels stay last in memory."""
        return _scaled(frames if self._cuda else frames.contiguous()).to(self._dtype)


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
