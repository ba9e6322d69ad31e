"""Reading, batching and running: the machine behind `avfusion.backbones.extract`.

Threads decode ahead while the network works (`avfusion.media.read_ahead`); snippets of one video or of
several go through it together. Nothing that is held grows with the length of a video but its features.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, cat, nn

from avfusion.backbones.network import PRECISIONS, Meter, Network, Precision
from avfusion.backbones.vggish import PostProcessing
from avfusion.backbones.weights import BackboneConfig
from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.data.journal import Result
from avfusion.data.streams import VISUAL
from avfusion.errors import InputError, MediaError
from avfusion.media.clips import VisualSource, audio_clips, visual_clips, visual_grid
from avfusion.media.log_mel import examples, log_mel
from avfusion.media.probe import VideoInfo, probe
from avfusion.media.read_ahead import read_ahead
from avfusion.media.snippets import AudioGeometry, SnippetGeometry

MAX_WORKERS = 8
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 2**20  # of malloc.h; bytes


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
        workers: videos that are decoded at the same time; 0: one on the CPU, up to eight beside a GPU.
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


@dataclass(frozen=True)
class _End:
    """A video is read: the time axis of every stream, or why there is none."""

    video: int
    axes: Mapping[str, TimeAxis | str]


@dataclass
class _Open:
    """A video that is being extracted."""

    features: dict[str, list[Tensor]] = field(default_factory=dict)
    waiting: int = 0  # pieces that did not go through a network yet
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
    _map_large_blocks()
    networks = {c.name: _network(c, backbones[c.name].module, running, meter) for c in streams}
    batches: dict[str, list[_Piece]] = {config.name: [] for config in streams}
    sizes = {config.name: config.batch_size for config in streams}
    videos = {index: _Open() for index in range(len(paths))}
    sources = [partial(_read, i, path, streams, networks, running) for i, path in enumerate(paths)]

    def run(name: str) -> Iterator[str]:
        pieces, batches[name] = batches[name], []
        for piece, values in zip(pieces, networks[name]([p.data for p in pieces]), strict=True):
            video = videos[piece.video]
            video.features.setdefault(name, []).append(values)
            video.waiting -= 1
            yield from [name] * len(values)

    def finish_what_is_done() -> None:
        for index in [i for i, video in videos.items() if video.axes is not None and not video.waiting]:
            finish(index, _results(videos.pop(index), paths[index], streams))

    with closing(read_ahead(sources, running.readers)) as items:
        for item in _timed(items, meter):
            if isinstance(item, _End):
                videos[item.video].axes = item.axes
            else:
                videos[item.video].waiting += 1
                batches[item.stream].append(item)
                held = sum(networks[item.stream].snippets(piece.data) for piece in batches[item.stream])
                if held >= sizes[item.stream]:
                    yield from run(item.stream)
            finish_what_is_done()
    for name in [name for name, pieces in batches.items() if pieces]:
        yield from run(name)
    finish_what_is_done()
    for network in networks.values():
        network.drain()


def _map_large_blocks() -> None:
    """Have glibc ask the system for every large block of memory, and give it back when it is freed.

    By itself it raises the size from which it does so as blocks are freed; what threads then leave in each
    other's heaps adds up over a long video to several times what is in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def _network(config: StreamConfig, module: nn.Module, running: Running, meter: Meter) -> Network:
    return Network(
        module,
        config.geometry,
        running.device,
        running.precision,
        config.batch_size,
        running.compiled,
        meter,
    )


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
        values = cat(video.features[config.name]).cpu().numpy()
        if not np.isfinite(values).all():
            problem = "its features hold NaN or infinity: check the weights, or take precision float32"
            raise InputError(path, problem, config.name)
        results[config.name] = VideoFeatures(values if config.post is None else config.post(values), axis)
    return results


def _read(
    index: int, path: Path, streams: Sequence[StreamConfig], networks: Mapping[str, Network], running: Running
) -> Iterator[_Piece | _End]:
    """Everything that the networks are to see of one video."""
    visual = [config for config in streams if config.name in VISUAL]
    axes: dict[str, TimeAxis | str] = {}
    info: VideoInfo | str = ""
    try:
        info = probe(path)
        if visual:
            for name, clip in visual_clips(path, info, _sources(visual, running), running.threads):
                yield _Piece(index, name, networks[name].piece(clip))
        axes |= {config.name: visual_grid(info, _frames(config))[0] for config in visual}
    except MediaError as error:
        info = str(error)
        axes |= {config.name: info for config in visual}
    for config in streams:
        if config.name in VISUAL:
            continue
        try:
            axis, clips = _sound(path, info, config)
            axes[config.name] = axis
            for group in _grouped((examples(log_mel(clip)) for clip in clips), config.batch_size):
                yield _Piece(index, config.name, networks[config.name].piece(np.stack(group)))
        except MediaError as error:
            axes[config.name] = str(error)
    yield _End(index, axes)


def _sources(visual: Sequence[StreamConfig], running: Running) -> dict[str, VisualSource]:
    return {
        config.name: VisualSource(_frames(config), config.flow, config.batch_size, running.device)
        for config in visual
    }


def _frames(config: StreamConfig) -> SnippetGeometry:
    assert isinstance(config.geometry, SnippetGeometry)
    return config.geometry


def _sound(path: Path, info: VideoInfo | str, config: StreamConfig) -> Any:
    """Axis and snippets of the sound; `info` may be the reason why the pictures cannot be used."""
    assert isinstance(config.geometry, AudioGeometry)
    if config.geometry.follow is None:
        return audio_clips(path, config.geometry)
    if isinstance(info, str):
        raise MediaError(info)
    return audio_clips(path, config.geometry, visual_grid(info, config.geometry.follow))


def _grouped(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
