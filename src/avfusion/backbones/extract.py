"""From media files to features: the snippets of every stream through its backbone, in one pass per video.

What a backbone sees: RGB scaled to [-1, 1]; flow cut to +-20 pixels, in eight bits as published, scaled to
[-1, 1]; sound at 16 kHz as log-mel examples, and the mean over the examples of a snippet that holds several.

A stream that a video lacks has a reason in place of features, and never stops the others.
"""

import json
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avfusion import __version__
from avfusion.backbones.log_mel import examples, log_mel
from avfusion.backbones.weights import BackboneConfig
from avfusion.data.features import FeatureWriter, TimeAxis, VideoFeatures
from avfusion.data.manifest import ManifestRow
from avfusion.errors import MediaError
from avfusion.media.clips import VisualSource, audio_clips, visual_clips, visual_grid
from avfusion.media.probe import VideoInfo, probe
from avfusion.media.snippets import AudioGeometry, SnippetGeometry
from avfusion.progress import track

VISUAL = ("rgb", "flow")
logger = logging.getLogger("avfusion")


@dataclass(frozen=True)
class StreamConfig:
    """How one stream becomes features.

    Attributes:
        name: "rgb", "flow" or "audio".
        backbone: network and its options.
        geometry: `SnippetGeometry` of a visual stream, `AudioGeometry` of the sound.
        flow: method of optical flow; for the flow stream, and no other.
        batch_size: snippets that go through the network together.
    """

    name: str
    backbone: BackboneConfig
    geometry: SnippetGeometry | AudioGeometry
    flow: str | None = None
    batch_size: int = 4

    def __post_init__(self) -> None:
        wanted = SnippetGeometry if self.name in VISUAL else AudioGeometry
        if not isinstance(self.geometry, wanted):
            raise TypeError(f"the stream '{self.name}' needs a {wanted.__name__}")
        if (self.name == "flow") != (self.flow is not None):
            raise ValueError("the flow stream, and no other, needs a flow method")
        if self.batch_size < 1:
            raise ValueError(f"a batch has at least one snippet, not {self.batch_size}")


@dataclass(frozen=True)
class Backbone:
    """A network in evaluation mode, and what its weights are (as `build_backbone` describes them)."""

    module: nn.Module
    weights: str


Result = VideoFeatures | str  # features, or the reason why there are none
Steps = Generator[str, None, dict[str, Result]]  # yields the name of a stream for every snippet that is done


def extract_video(
    path: str | Path,
    streams: Sequence[StreamConfig],
    backbones: Mapping[str, Backbone],
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, Result]:
    """Extract streams of one video; the visual ones share one pass over it.

    Args:
        path: media file.
        streams: what to extract.
        backbones: network of every stream, on `device`.
        device: torch device.
        threads: decoder threads; nothing depends on it but the time.

    Returns:
        For every stream its features, or in plain words why there are none.
    """
    steps = _extract(path, streams, backbones, device, threads)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return dict(end.value)


def extract_shard(
    rows: Sequence[ManifestRow],
    streams: Sequence[StreamConfig],
    backbones: Mapping[str, Backbone],
    outputs: str | Path | Mapping[str, str | Path],
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, dict[str, str]]:
    """Extract streams of many videos into feature files, which appear when all are done.

    Args:
        rows: of the manifest; a row that is not ok is absent for its reason.
        streams: what to extract.
        backbones: network of every stream, on `device`.
        outputs: HDF5 file for all streams, or one per stream by its name.
        device: torch device.
        threads: decoder threads.

    Returns:
        By video, the streams that are absent and why; videos with all streams are not in it.
    """
    names = [config.name for config in streams]
    paths = {n: Path(outputs[n] if isinstance(outputs, Mapping) else outputs) for n in names}
    absent: dict[str, dict[str, str]] = {}

    def work() -> Iterator[str]:
        for row in rows:
            results: dict[str, Result] = dict.fromkeys(names, row.status)
            if row.ok:
                results = yield from _extract(row.path, streams, backbones, device, threads)
            for name, result in results.items():
                if isinstance(result, str):
                    writers[paths[name]].absent(name, row.id, result)
                    absent.setdefault(row.id, {})[name] = result
                    logger.warning("%s: %s is absent: %s", row.id, name, result)
                else:
                    writers[paths[name]].add(name, row.id, result)

    with ExitStack() as stack:
        writers = {path: stack.enter_context(FeatureWriter(path)) for path in dict.fromkeys(paths.values())}
        for config in streams:
            writers[paths[config.name]].stream(config.name, **_attributes(config, backbones[config.name]))
        total = sum(_expected(row, config) for row in rows if row.ok for config in streams)
        for _ in track(work(), f"extracting {', '.join(names)}", total=total, unit="snippet"):
            pass
    return absent


def _attributes(config: StreamConfig, backbone: Backbone) -> dict[str, Any]:
    """What the group of a stream says of how it was made."""
    attributes: dict[str, Any] = {
        "backbone": str(config.backbone),
        "weights": backbone.weights,
        "geometry": json.dumps(asdict(config.geometry)),
        "avfusion": __version__,
    }
    return attributes if config.flow is None else attributes | {"flow": config.flow}


def _expected(row: ManifestRow, config: StreamConfig) -> int:
    """Snippets that a row will have, for the progress bar."""
    geometry = config.geometry
    if isinstance(geometry, AudioGeometry):
        if not row.has_audio:
            return 0
        if geometry.follow is None:
            return max(1, int(row.duration / (geometry.stride or geometry.window)))
        geometry = geometry.follow
    if not row.fps:
        return 1
    return geometry.count(max(1, round(row.frames * (geometry.fps or row.fps) / row.fps)))


def _extract(
    path: str | Path,
    streams: Sequence[StreamConfig],
    backbones: Mapping[str, Backbone],
    device: str,
    threads: int,
) -> Steps:
    visual = [config for config in streams if config.name in VISUAL]
    sound = [config for config in streams if config.name not in VISUAL]
    results: dict[str, Result] = {}
    info: VideoInfo | str = ""
    try:
        info = probe(path)
        if visual:
            results |= yield from _extract_visual(path, info, visual, backbones, device, threads)
    except MediaError as error:
        info = str(error)
        results |= {config.name: info for config in visual}
    for config in sound:
        try:
            results[config.name] = yield from _extract_sound(
                path, info, config, backbones[config.name], device
            )
        except MediaError as error:
            results[config.name] = str(error)
    return {config.name: results[config.name] for config in streams}


def _extract_visual(
    path: str | Path,
    info: VideoInfo,
    streams: Sequence[StreamConfig],
    backbones: Mapping[str, Backbone],
    device: str,
    threads: int,
) -> Steps:
    sources: dict[str, VisualSource] = {}
    axes: dict[str, TimeAxis] = {}
    for config in streams:
        assert isinstance(config.geometry, SnippetGeometry)
        sources[config.name] = VisualSource(config.geometry, config.flow)
        axes[config.name], _ = visual_grid(info, config.geometry)
    batches = {config.name: _Batch(config, backbones[config.name].module, device) for config in streams}
    for name, clip in visual_clips(path, info, sources, threads):
        for _ in range(batches[name].add(clip)):
            yield name
    for name, batch in batches.items():
        for _ in range(batch.run()):
            yield name
    return {name: VideoFeatures(batch.values(), axes[name]) for name, batch in batches.items()}


def _extract_sound(
    path: str | Path, info: VideoInfo | str, config: StreamConfig, backbone: Backbone, device: str
) -> Generator[str, None, VideoFeatures]:
    """Sound of one file; `info` may be the reason why its pictures cannot be used."""
    assert isinstance(config.geometry, AudioGeometry)
    follow = None
    if config.geometry.follow is not None:
        if isinstance(info, str):
            raise MediaError(info)
        follow = visual_grid(info, config.geometry.follow)
    axis, clips = audio_clips(path, config.geometry, follow)
    batch = _Batch(config, backbone.module, device)
    for clip in clips:
        for _ in range(batch.add(examples(log_mel(clip)))):
            yield config.name
    for _ in range(batch.run()):
        yield config.name
    return VideoFeatures(batch.values(), axis)


class _Batch:
    """Snippets that wait to go through a network together, and what came out of it."""

    def __init__(self, config: StreamConfig, module: nn.Module, device: str) -> None:
        self._module, self._device, self._size = module, device, config.batch_size
        self._forward = _forward_visual if config.name in VISUAL else _forward_sound
        self._waiting: list[NDArray[Any]] = []
        self._done: list[NDArray[np.float32]] = []

    def add(self, snippet: NDArray[Any]) -> int:
        """Add a snippet; the number that went through the network because of it."""
        self._waiting.append(snippet)
        return self.run() if len(self._waiting) == self._size else 0

    def run(self) -> int:
        """Run what waits; its number."""
        count = len(self._waiting)
        if count:
            with torch.inference_mode():
                values = self._forward(self._module, np.stack(self._waiting), self._device)
            self._done.append(values.float().cpu().numpy())
            self._waiting = []
        return count

    def values(self) -> NDArray[np.float32]:
        """Features (snippets, channels) of all that were run."""
        return np.concatenate(self._done)


def visual_input(clips: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """Clips (B, T, H, W, C) of eight-bit RGB or flow as I3D takes them: (B, C, T, H, W) in [-1, 1]."""
    values = torch.from_numpy(clips).to(device).permute(0, 4, 1, 2, 3)
    return values.to(torch.float32, memory_format=torch.contiguous_format).mul_(2 / 255).sub_(1)


def _forward_visual(module: nn.Module, clips: NDArray[np.uint8], device: str) -> Tensor:
    features: Tensor = module.extract_features(visual_input(clips, device))  # type: ignore[operator]
    return features


def _forward_sound(module: nn.Module, clips: NDArray[np.float32], device: str) -> Tensor:
    """Mean embedding of the log-mel examples (B, N, 96, 64) of each snippet."""
    batch, count = clips.shape[:2]
    values = torch.from_numpy(clips.reshape(batch * count, 1, *clips.shape[2:])).to(device)
    embeddings: Tensor = module(values)
    return embeddings.reshape(batch, count, -1).mean(dim=1)
