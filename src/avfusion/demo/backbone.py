"""Small backbones for the demo, trained on windows cut from its training videos.

Pre-trained weights cannot be had offline, and random ones are too weak: so the network that will extract a
stream first learns to tell the classes (and background) apart in single snippets. It sees what extraction
will show it, through the same code, and of the truth only the annotations of the training subset. Classes
that look alike stay confused in the streams that cannot tell them apart; that is the point of the demo.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from avfusion.backbones.extract import StreamConfig, visual_input
from avfusion.backbones.i3d import I3D
from avfusion.backbones.weights import save_state
from avfusion.data.annotations import Annotations, Instance
from avfusion.data.manifest import ManifestRow
from avfusion.errors import InputError
from avfusion.files import write_json
from avfusion.media.audio import read_audio, resample
from avfusion.media.clips import VisualSource, visual_clips
from avfusion.media.log_mel import EXAMPLE_FRAMES, HOP, RATE, log_mel
from avfusion.media.probe import probe
from avfusion.media.snippets import SnippetGeometry
from avfusion.options import require
from avfusion.progress import track
from avfusion.seeding import derive

MEL_RATE = RATE / HOP  # log-mel frames per second
BATCH_NORM_MOMENTUM = 0.1  # the published 0.01 would not have forgotten its start after so few steps
WARM_UP = 10  # steps
logger = logging.getLogger("avfusion")


@dataclass(frozen=True)
class BackboneTraining:
    """How a backbone of the demo is trained.

    Attributes:
        steps: batches, with AdamW; the learning rate rises, then falls along a cosine to 0.
        batch_size: windows per batch.
        lr: largest learning rate.
        weight_decay: of AdamW.
        background: windows of background per window of a class.
        smoothing: share of the label that is spread over all classes.
        dropout: before the classifier.
        shift: pixels by which pictures are moved at random, in both directions.
    """

    steps: int = 150
    batch_size: int = 32
    lr: float = 3e-3
    weight_decay: float = 1e-2
    background: float = 2.5
    smoothing: float = 0.1
    dropout: float = 0.3
    shift: int = 4

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        require(self.lr > 0, "lr", f"must be above 0, not {self.lr}")
        for name in ("weight_decay", "background", "shift"):
            require(getattr(self, name) >= 0, name, f"must not be negative, not {getattr(self, name)}")
        for name in ("smoothing", "dropout"):
            require(0 <= getattr(self, name) < 1, name, f"must be in [0, 1), not {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Recording:
    """One stream of one video in memory, with what happens in it.

    Attributes:
        values: uint8 (frames, size, size, C) pictures or flow, or float32 (frames, 64) log-mel.
        rate: frames per second.
        start: second at which frame 0 begins.
        instances: actions in it.
    """

    values: NDArray[Any]
    rate: float
    start: float
    instances: tuple[Instance, ...]

    @property
    def end(self) -> float:
        """Second at which the last frame ends."""
        return self.start + len(self.values) / self.rate

    def window(self, centre: float, length: int) -> NDArray[Any]:
        """`length` frames around second `centre`, moved inwards at the ends; a last one may be repeated."""
        first = round((centre - self.start) * self.rate - length / 2)
        first = max(min(first, len(self.values) - length), 0)
        return self.values[np.minimum(np.arange(first, first + length), len(self.values) - 1)]

    def is_background(self, second: float) -> bool:
        """Whether no action happens then."""
        return not any(i.start <= second <= i.end for i in self.instances)


def train_backbone(
    config: StreamConfig,
    rows: Sequence[ManifestRow],
    annotations: Annotations,
    seed: int,
    out_path: str | Path,
    options: BackboneTraining | None = None,
) -> dict[str, Any]:
    """Train the backbone of a stream and write its state dict, without the classifier it was trained with.

    Args:
        config: of the stream, as extraction will use it.
        rows: of the manifest; only those that are usable and in `annotations` count.
        annotations: of the training subset alone.
        seed: of initial weights, windows and augmentation. One seed gives one file, on one thread.
        out_path: file of tensors that `backbones.weights.load_state` reads; beside it, with the suffix
            ``.json``, goes the description that is returned.
        options: how to train.

    Returns:
        How it was trained: classes, videos, options, share of windows recognised in the last steps.

    Raises:
        InputError: no usable training video has an action.
        MediaError: a training video cannot be decoded.
    """
    options = options or BackboneTraining()
    used = [row for row in rows if row.ok and row.id in annotations.videos]
    if config.name == "audio":
        used = [row for row in used if row.has_audio]
    if not any(annotations.videos[row.id].instances for row in used):
        raise InputError(annotations.source, "no usable training video has an action to train a backbone on")
    recordings = [
        read_recording(config, row.path, annotations.videos[row.id].instances)
        for row in track(used, f"reading {config.name}", unit="video")
    ]
    windows = _Windows(config, recordings, annotations.labels, options, derive(seed, config.name, "windows"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, config.name, "weights"))
        network = _Classifier(config, len(annotations.labels) + 1, options.dropout)
        accuracy = _fit(network, windows, options, config.name)
    save_state(out_path, network.backbone.state_dict())
    description = {
        "what": "backbone of the synthetic demo, trained on windows of its training videos",
        "stream": config.name,
        "backbone": str(config.backbone),
        "classes": [*annotations.labels, "background"],
        "videos": len(used),
        "seed": seed,
        "training": asdict(options),
        "accuracy_of_last_windows": round(accuracy, 3),
    }
    write_json(Path(out_path).with_suffix(".json"), description)
    return description


def read_recording(config: StreamConfig, path: str | Path, instances: tuple[Instance, ...]) -> Recording:
    """Decode one stream of a video into memory, with the code that extraction uses."""
    if not isinstance(config.geometry, SnippetGeometry):
        waveform = resample(read_audio(path), RATE)
        return Recording(log_mel(waveform.samples), MEL_RATE, 0.0, instances)
    info = probe(path)
    geometry = config.geometry
    # Snippets of a single frame are the frames (or flows) of the grid, one after the other.
    single = SnippetGeometry(1, 1, geometry.fps, geometry.size, geometry.short_side)
    clips = visual_clips(path, info, {config.name: VisualSource(single, config.flow)})
    frames = np.concatenate([clip for _, clip in clips])
    return Recording(frames, geometry.fps or info.fps, info.start, instances)


class _Windows:
    """Batches of augmented windows: in every round one of each action, and of background as many as asked."""

    def __init__(
        self,
        config: StreamConfig,
        recordings: Sequence[Recording],
        labels: Sequence[str],
        options: BackboneTraining,
        seed: int,
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._recordings, self._options, self._stream = recordings, options, config.name
        geometry = config.geometry
        self._length = geometry.window if isinstance(geometry, SnippetGeometry) else EXAMPLE_FRAMES
        index = {label: k for k, label in enumerate(labels)}
        self._actions = [(r, i, index[i.label]) for r in recordings for i in r.instances]
        self._background = len(labels)
        self._per_round = round(options.background * len(self._actions) / len(labels))
        self._round: list[int] = []

    def batch(self) -> tuple[Tensor, Tensor]:
        """Windows as the network takes them, and their classes."""
        drawn = [self._draw() for _ in range(self._options.batch_size)]
        values = np.stack([window for window, _ in drawn])
        target = torch.tensor([label for _, label in drawn])
        if self._stream == "audio":
            loudness = self._random.normal(0, 0.3, size=(len(values), 1, 1))
            return torch.from_numpy(values + loudness.astype(np.float32)), target
        return self._augmented(visual_input(values)), target

    def _draw(self) -> tuple[NDArray[Any], int]:
        if not self._round:
            self._round = self._random.permutation(len(self._actions) + self._per_round).tolist()
        number = self._round.pop()
        if number < len(self._actions):
            recording, instance, label = self._actions[number]
            return recording.window(self._random.uniform(instance.start, instance.end), self._length), label
        for _ in range(
            1000
        ):  # a video may be full of actions: then its windows are no background, but few are
            recording = self._recordings[int(self._random.integers(len(self._recordings)))]
            centre = self._random.uniform(recording.start, recording.end)
            if recording.is_background(centre):
                break
        return recording.window(centre, self._length), self._background

    def _augmented(self, clips: Tensor) -> Tensor:
        """Mirrored, moved, and (pictures) brightened and tinted at random: (B, C, T, H, W)."""
        random, shift = self._random, self._options.shift
        for clip in clips:
            if random.random() < 0.5:
                clip.copy_(clip.flip(3))
                if self._stream == "flow":
                    clip[0].neg_()  # what moved to the left now moves to the right
            down, right = random.integers(-shift, shift + 1, size=2).tolist()
            clip.copy_(clip.roll((down, right), dims=(2, 3)))
        if self._stream == "rgb":
            shape = (len(clips), 3, 1, 1, 1)
            gain = torch.from_numpy(random.uniform(0.8, 1.2, size=(len(clips), 1, 1, 1, 1))).float()
            clips = clips * gain + torch.from_numpy(random.uniform(-0.15, 0.15, size=shape)).float()
        return clips.contiguous(memory_format=torch.channels_last_3d)


class _Classifier(nn.Module):
    """A backbone and a linear classifier on its features."""

    def __init__(self, config: StreamConfig, classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = config.backbone.build()
        if isinstance(self.backbone, I3D):
            # Half the time on a CPU, at so few channels.
            self.backbone = self.backbone.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = BATCH_NORM_MOMENTUM
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.backbone.channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone.extract_features(x) if isinstance(self.backbone, I3D) else self.backbone(x)
        scores: Tensor = self.classifier(self.dropout(features))
        return scores


def _fit(network: _Classifier, windows: _Windows, options: BackboneTraining, stream: str) -> float:
    """Train; returns the share of windows recognised in the last tenth of the steps."""
    optimiser = torch.optim.AdamW(network.parameters(), options.lr, weight_decay=options.weight_decay)
    network.train()
    shares: list[float] = []
    for step in track(range(options.steps), f"training the {stream} backbone", unit="batch"):
        warm = min(1.0, (step + 1) / WARM_UP)
        optimiser.param_groups[0]["lr"] = (
            options.lr * warm * (1 + math.cos(math.pi * step / options.steps)) / 2
        )
        values, target = windows.batch()
        scores = network(values)
        loss = F.cross_entropy(scores, target, label_smoothing=options.smoothing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        shares.append(float((scores.argmax(1) == target).float().mean()))
    last = float(np.mean(shares[-max(options.steps // 10, 1) :]))
    logger.info(
        "%s backbone: loss %.3f, %.0f%% of the last windows recognised", stream, loss.item(), 100 * last
    )
    return last
