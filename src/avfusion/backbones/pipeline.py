"""Reading, batching and running: the machine behind `avfusion.backbones.extract`.

Threads, or processes for several videos at a time, decode ahead while the network works
(`avfusion.media.read_ahead`, `avfusion.media.reader_process`); snippets of one video or of several go through
it together. Nothing that is held grows with the length of a video but its features.
"""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor, cat, get_num_threads, nn

from avfusion.backbones.network import PRECISIONS, Meter, Network, Precision
from avfusion.backbones.packing import Packer, Part
from avfusion.backbones.vggish import PostProcessing
from avfusion.backbones.weights import BackboneConfig
from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.data.journal import Result
from avfusion.data.streams import VISUAL
from avfusion.errors import InputError
from avfusion.media.clips import VisualSource
from avfusion.media.read_ahead import read_ahead
from avfusion.media.reader_process import ReaderProcesses
from avfusion.media.reading import End, Job, Piece, SoundSource, read_video
from avfusion.media.snippets import AudioGeometry, SnippetGeometry
from avfusion.memory import keep_freed_memory

MAX_WORKERS = 8
KEPT, LARGE_BLOCK = 2**28, 2**25  # bytes; `extract` sees blocks of ever other sizes for hours


@dataclass(frozen=True)
class StreamConfig:
    """How one stream becomes features.

    Attributes:
        name: "rgb", "flow" or "audio".
        backbone: network and its options.
        geometry: `SnippetGeometry` of a visual stream, `AudioGeometry` of the sound.
        flow: method of optical flow; for the flow stream, and no other.
        batch_size: snippets that go through the network together, of one video or of several. Visual snippets
            that overlap share work only within a batch.
        post: AudioSet's post-processing of the embeddings of the sound; None: embeddings as they are.
    """

    name: str
    backbone: BackboneConfig
    geometry: SnippetGeometry | AudioGeometry
    flow: str | None = None
    batch_size: int = 16
    post: PostProcessing | None = None

    def __post_init__(self) -> None:
        wanted = SnippetGeometry if self.name in VISUAL else AudioGeometry
        if not isinstance(self.geometry, wanted):
            raise TypeError(f"the stream '{self.name}' needs a {wanted.__name__}")
        if (self.name == "flow") != (self.flow is not None):
            raise ValueError("the flow stream, and no other, needs a flow method")
        if self.batch_size < 1:
            raise ValueError(f"a batch has at least one snippet, not {self.batch_size}")
        if self.post is not None and self.name in VISUAL:
            raise ValueError("only the sound has a post-processing")


@dataclass(frozen=True)
class Running:
    """How an extraction runs. Of all this only `precision` changes features by more than rounding.

    Attributes:
        device: torch device.
        threads: decoder threads per video.
        workers: videos that are decoded at the same time, several of them in processes of their own; 0: one
            on the CPU, up to eight beside a GPU.
        precision: of I3D, see `avfusion.backbones.network.Network`.
        compiled: use `torch.compile` on CUDA.
    """

    device: str = "cpu"
    threads: int = 1
    workers: int = 0
    precision: Precision = "auto"
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1 or self.workers < 0:
            raise ValueError("threads and workers are counts")
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise InputError("config", f"'{self.precision}' is none of {known}", "precision")

    @property
    def readers(self) -> int:
        """Videos that are decoded at the same time."""
        automatic = 1 if self.device == "cpu" else min(MAX_WORKERS, os.cpu_count() or 1)
        return self.workers or automatic


@dataclass(frozen=True)
class Backbone:
    """A network in evaluation mode, and what its weights are (as `build_backbone` describes them)."""

    module: nn.Module
    weights: str


@dataclass(frozen=True)
class _Piece:
    """Snippets of a stream that were read together."""

    video: int
    stream: str
    data: Tensor
    windows: int


@dataclass(frozen=True)
class _End:
    """A video is read."""

    video: int
    end: End


@dataclass
class _Open:
    """A video that is being extracted."""

    features: dict[str, list[Tensor]] = field(default_factory=dict)
    waiting: int = 0  # snippets that did not go through a network yet
    calls: dict[str, int] = field(default_factory=dict)  # by stream, number of the last call it is part of
    axes: Mapping[str, TimeAxis | str] | None = None


def extract(
    paths: Sequence[Path],
    streams: Sequence[StreamConfig],
    backbones: Mapping[str, Backbone],
    running: Running,
    finish: Callable[[int, dict[str, Result]], None],
    meter: Meter | None = None,
) -> Iterator[str]:
    """Extract videos; gives the name of a stream for every snippet that is done, and calls `finish`."""
    meter = meter or Meter()
    meter.readers = running.readers
    keep_freed_memory(KEPT, LARGE_BLOCK)
    networks = {c.name: _network(c, backbones[c.name].module, running, meter) for c in streams}
    packers = {c.name: Packer[_Piece](c.batch_size, networks[c.name].joint) for c in streams}
    videos = {index: _Open() for index in range(len(paths))}

    def run(name: str) -> Iterator[str]:
        parts, network = packers[name].take(), networks[name]
        values = network([Part(part.piece.data, part.first, part.count) for part in parts])
        for part, value in zip(parts, values, strict=True):
            video = videos[part.piece.video]
            video.features.setdefault(name, []).append(value)
            video.calls[name] = network.issued
            video.waiting -= part.count
            yield from [name] * part.count

    def finish_what_is_done() -> None:
        for network in networks.values():
            network.poll()
        for index in [i for i, video in videos.items() if video.axes is not None and not video.waiting]:
            if all(networks[name].finished >= call for name, call in videos[index].calls.items()):
                finish(index, _results(videos.pop(index), paths[index], streams))

    with closing(_read(paths, streams, networks, running)) as items:
        for item in _timed(items, meter):
            if isinstance(item, _End):
                videos[item.video].axes = item.end.axes
                meter.read(item.end.wall, item.end.cpu)
            else:
                videos[item.video].waiting += item.windows
                data = networks[item.stream].prepare(item.data, item.windows)
                packers[item.stream].add(replace(item, data=data), item.windows)
                while packers[item.stream].full:
                    yield from run(item.stream)
            finish_what_is_done()
    for name, packer in packers.items():
        while packer:
            yield from run(name)
    for network in networks.values():
        network.drain()
    finish_what_is_done()


def _network(config: StreamConfig, module: nn.Module, running: Running, meter: Meter) -> Network:
    return Network(
        module,
        config.geometry,
        running.device,
        running.precision,
        config.batch_size,
        running.compiled,
        meter,
        config.flow if _flow_beside(config, running) else None,
    )


def _flow_beside(config: StreamConfig, running: Running) -> bool:
    """Whether flow is computed where the network is, and not by the readers: TV-L1 on CUDA."""
    return config.flow == "tvl1" and running.device.startswith("cuda")


def _timed(items: Iterator[_Piece | _End], meter: Meter) -> Iterator[_Piece | _End]:
    """The items, and how long was waited for them."""
    while True:
        with meter.wait():
            item = next(items, None)
        if item is None:
            return
        yield item


def _results(video: _Open, path: Path, streams: Sequence[StreamConfig]) -> dict[str, Result]:
    assert video.axes is not None
    results: dict[str, Result] = {}
    for config in streams:
        axis = video.axes[config.name]
        if isinstance(axis, str):
            results[config.name] = axis
            continue
        values = cat(video.features[config.name]).numpy()
        if not np.isfinite(values).all():
            problem = "its features hold NaN or infinity: check the weights, or take precision float32"
            raise InputError(path, problem, config.name)
        results[config.name] = VideoFeatures(values if config.post is None else config.post(values), axis)
    return results


def _read(
    paths: Sequence[Path],
    streams: Sequence[StreamConfig],
    networks: Mapping[str, Network],
    running: Running,
) -> Generator[_Piece | _End, None, None]:
    """Everything that the networks are to see, read by a thread, or by processes for videos at the same time.

    On CUDA pieces come as they are read, as there the last digits of features depend on the machine anyway.
    """
    shares = max(1, get_num_threads() // running.readers)
    processes = ReaderProcesses(shares) if running.readers > 1 else None
    read = read_video if processes is None else processes.read
    sources = [
        partial(_pieces, index, _job(path, streams, running), read, networks)
        for index, path in enumerate(paths)
    ]
    try:
        with closing(read_ahead(sources, running.readers, in_turn=running.device == "cpu")) as items:
            yield from items
    finally:
        if processes is not None:
            processes.close()


def _pieces(
    index: int, job: Job, read: Callable[[Job], Iterator[Piece | End]], networks: Mapping[str, Network]
) -> Iterator[_Piece | _End]:
    with closing(read(job)) as items:  # type: ignore[type-var]
        for item in items:
            if isinstance(item, End):
                yield _End(index, item)
            else:
                yield _Piece(index, item.stream, networks[item.stream].piece(item.run), item.run.windows)


def _job(path: Path, streams: Sequence[StreamConfig], running: Running) -> Job:
    visual: dict[str, VisualSource] = {}
    sound: dict[str, SoundSource] = {}
    for config in streams:
        if isinstance(config.geometry, AudioGeometry):
            sound[config.name] = SoundSource(config.geometry, config.batch_size)
        else:
            beside = _flow_beside(config, running)
            flow = None if beside else config.flow
            visual[config.name] = VisualSource(config.geometry, flow, config.batch_size, beside)
    return Job(path, visual, sound, running.threads)
