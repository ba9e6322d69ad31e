"""G-TAD (Xu et al., Sub-Graph Localization for Temporal Action Detection, CVPR 2020): makes proposals.

    window of features (B, C, T)
      -> [attention between what is seen and heard, if asked for]
      -> backbone1: convolution and a graph layer      -> start (B, T), end (B, T), by a graph layer each
      -> backbone2: a graph layer
      -> sub-graph alignment: every candidate, extended by half its length on both sides, as slots of its own
         features and of those of its snippets' neighbours
      -> localization -> two maps (B, 2, D, T): estimated tIoU, and probability of an action

Candidate (d, i) of a map lasts from snippet i to i + d; see `avfusion.detectors.gtad_windows`. A window
slides over the video, or a video is rescaled to one window. Parameter names and shapes are those of the
published checkpoints; the variant of tal-hmo has 32 + 4 slots (`inner_slots`, `context_slots`) and
attention.

What differs from the published code: slots are projected before they are aligned and neighbours before they
are gathered (linear both, see `avfusion.ops.project_align1d`), so that the largest tensors never exist; style
0 works with any `max_duration`; the checkpoint of the last epoch is called just that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avfusion.data.features import VideoFeatures
from avfusion.data.proposals import RankedProposals, Segments
from avfusion.detectors.base import TOTAL, Detector, TrainingSet, Video, channels_first
from avfusion.detectors.classifier import fit_classifier, segment_features
from avfusion.detectors.gtad_graph import GraphLayer, gather, nearest
from avfusion.detectors.gtad_losses import node_loss, subgraph_loss
from avfusion.detectors.gtad_ranking import RankingOptions, candidate_scores, rank
from avfusion.detectors.gtad_windows import (
    Grid,
    candidate_frames,
    cut,
    instances_of_window,
    rescale,
    to_frames,
    to_seconds,
    window_starts,
    window_targets,
)
from avfusion.detectors.packing import on_device
from avfusion.errors import InputError
from avfusion.fusion.attention import attend, attended_width, attention_layers
from avfusion.ops import project_align1d
from avfusion.options import require

INPUT_GROUPS = 4  # of the first convolution
EXTENSION = 0.5  # of a candidate on both sides, in its lengths
WINDOWS_AT_ONCE = 8  # when predicting

# How G-TAD was trained on THUMOS14, where that differs from `avfusion.engine.schedule.TrainingOptions`.
TRAINING: Mapping[str, Any] = {
    "optimizer": "adam",
    "lr": 4e-5,
    "weight_decay": 1e-4,
    "bias_lr": 1.0,
    "bias_decay": 1.0,
    "clip_norm": 1.0,
    "epochs": 10,
    "passes": 1,
    "batch_size": 8,
    "accumulate": 1,
    "steps": (5,),
}


@dataclass(frozen=True)
class Options:
    """Options of G-TAD; the defaults are the published ones for THUMOS14.

    Attributes:
        windows: "sliding" moves windows over the snippets of a video (published for THUMOS14); "rescaled"
            interpolates every video to one window (ActivityNet, with temporal_scale and max_duration 100).
        temporal_scale: snippets of a window.
        max_duration: length of the longest candidate in snippets.
        min_duration: candidates of so many snippets or fewer do not train the maps.
        skip: frames from one snippet to the next in the published arithmetic, which truncates to frames.
        exact_times: let candidates mean the same when training and proposing; false is as published, where
            the two differ by up to half a snippet. Always so with rescaled windows.
        full_windows: cover the end of a video whatever is left of it, propose what ends with a window, and
            nothing that begins after the last snippet; false is as published.
        style: which neighbours of a snippet are the context of a candidate: 0 none, 1 those by the features
            that are aligned, 2 those that the graph layers before found.
        sampling_ratio: samples per slot of the alignment; 0 takes as many as the slot has snippets. Where the
            context has another number of slots (tal-hmo), it always takes 0, as published there.
        inner_slots: slots of a candidate's own features.
        context_slots: slots of the features of its snippets' neighbours.
        neighbours: nearest snippets, itself included, that a snippet is joined with.
        hidden_1d: channels of the backbone.
        hidden_2d: channels of the maps before the last layer.
        hidden_3d: channels of a candidate after the projection of its slots.
        kernel_2d: width of the two convolutions over the maps, an odd number; early code for ActivityNet
            had 1.
        groups: of the convolutions inside of a graph layer, each 4 channels wide.
        attention: blocks of attention between the picture (the first stream) and the sound (the others);
            0 leaves the streams side by side.
        regression_weight: weight of the loss of the estimated tIoU; the boundaries' loss has 1. (The code for
            ActivityNet has 10 here and 1 below, as BMN.)
        classification_weight: weight of the loss that tells actions from the rest.
        ranking: how the maps become ranked proposals.
        classifier: "linear" measures on the training videos a classifier of segments, which gives detections
            of its own; "none" leaves classes to another source, as published.
    """

    windows: Literal["sliding", "rescaled"] = "sliding"
    temporal_scale: int = 256
    max_duration: int = 64
    min_duration: int = 0
    skip: int = 5
    exact_times: bool = False
    full_windows: bool = False
    style: Literal[0, 1, 2] = 1
    sampling_ratio: int = 0
    inner_slots: int = 16
    context_slots: int = 16
    neighbours: int = 3
    hidden_1d: int = 256
    hidden_2d: int = 128
    hidden_3d: int = 512
    kernel_2d: int = 3
    groups: int = 32
    attention: int = 0
    regression_weight: float = 1.0
    classification_weight: float = 10.0
    ranking: RankingOptions = field(default_factory=RankingOptions)
    classifier: Literal["none", "linear"] = "none"

    def __post_init__(self) -> None:
        least = {"temporal_scale": 2, "min_duration": 0, "sampling_ratio": 0, "attention": 0}
        for name in (
            *("temporal_scale", "max_duration", "min_duration", "skip", "sampling_ratio", "inner_slots"),
            *(
                "context_slots",
                "neighbours",
                "hidden_1d",
                "hidden_2d",
                "hidden_3d",
                "kernel_2d",
                "groups",
                "attention",
            ),
        ):
            value, bound = getattr(self, name), least.get(name, 1)
            require(value >= bound, name, f"must be at least {bound}, not {value}")
        require(self.kernel_2d % 2 == 1, "kernel_2d", f"must be odd, not {self.kernel_2d}")
        for name in ("regression_weight", "classification_weight"):
            require(getattr(self, name) >= 0, name, f"must not be negative, not {getattr(self, name)}")
        for name in ("max_duration", "neighbours"):
            fits = getattr(self, name) <= self.temporal_scale
            require(fits, name, f"must be at most temporal_scale ({self.temporal_scale})")
        shorter = self.min_duration < self.max_duration
        require(shorter, "min_duration", f"must be below max_duration ({self.max_duration})")

    @property
    def grid(self) -> Grid:
        """The candidates of a window."""
        rescaled = self.windows == "rescaled"
        exact = self.exact_times or rescaled
        return Grid(self.temporal_scale, self.max_duration, self.skip, exact, centred=not rescaled)


class Example(NamedTuple):
    """A training window: features (C, T), targets start (T,), end (T,), iou (D, T), and draws (2, D, T)."""

    features: Tensor
    start: Tensor
    end: Tensor
    iou: Tensor
    uniform: Tensor


class Maps(NamedTuple):
    """What the network says of B windows: candidates (B, 2, D, T), start (B, T), end (B, T), in [0, 1]."""

    candidates: Tensor
    start: Tensor
    end: Tensor


class Gtad(Detector[RankedProposals]):
    """The G-TAD detector; see the module's text.

    Attributes:
        options: how it was built.
        class_weight: float32 (K + 1, 3 C), of the classifier of segments; None without one.
        class_bias: float32 (K + 1,); None without a classifier.
    """

    options: Options
    mixed_precision = True  # distances and everything from the last sigmoid on stay float32
    class_weight: Tensor | None
    class_bias: Tensor | None
    anchors: Tensor
    mask: Tensor

    def __init__(self, options: Options, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.options, self.widths, self.classes = options, tuple(widths), classes
        channels = attended_width(widths) if options.attention else sum(widths)
        if channels % INPUT_GROUPS:
            problem = f"G-TAD convolves features in {INPUT_GROUPS} groups, into which {channels} channels "
            raise InputError("features", problem + "cannot be divided", "widths")
        hidden, deep, flat = options.hidden_1d, options.hidden_3d, options.hidden_2d

        def layer() -> GraphLayer:
            return GraphLayer(hidden, options.groups, options.neighbours)

        first = nn.Conv1d(channels, hidden, 3, padding=1, groups=INPUT_GROUPS)
        self.backbone1 = nn.Sequential(first, nn.ReLU(), layer())
        self.regu_s = nn.Sequential(layer(), nn.Conv1d(hidden, 1, 1), nn.Sigmoid())
        self.regu_e = nn.Sequential(layer(), nn.Conv1d(hidden, 1, 1), nn.Sigmoid())
        self.backbone2 = nn.Sequential(layer())
        size = options.kernel_2d
        slots = options.inner_slots + (options.context_slots if options.style else 0)
        self.localization = nn.Sequential(
            nn.Conv2d(hidden * slots, deep, 1),
            nn.ReLU(),
            nn.Conv2d(deep, flat, 1),
            nn.ReLU(),
            nn.Conv2d(flat, flat, size, padding=size // 2),
            nn.ReLU(),
            nn.Conv2d(flat, flat, size, padding=size // 2),
            nn.ReLU(),
            nn.Conv2d(flat, 2, 1),
            nn.Sigmoid(),
        )
        if options.attention:
            self.U_v, self.U_a = attention_layers(channels), attention_layers(channels)
        grid = options.grid
        self.register_buffer("mask", torch.from_numpy(grid.mask(options.min_duration)), persistent=False)
        self.register_buffer("anchors", anchors(grid), persistent=False)
        linear = options.classifier == "linear"
        parts = (torch.zeros(classes + 1, 3 * sum(widths)), torch.zeros(classes + 1))
        for name, value in zip(("class_weight", "class_bias"), parts, strict=True):
            self.register_buffer(name, value if linear else None, persistent=False)

    def maps(self, features: Tensor) -> Maps:
        """Maps of candidates and boundaries of windows (B, C, T)."""
        options, count = self.options, self.options.neighbours
        if options.attention:
            seen, heard = features.mT.split([self.widths[0], sum(self.widths[1:])], dim=2)
            features = attend(self.U_v, self.U_a, seen, heard, options.attention).mT
        convolved = self.backbone1[:2](features)
        first = nearest(convolved, count)
        base = self.backbone1[2](convolved, first)
        second = nearest(base, count)  # three layers see the same features
        heads = (self.regu_s, self.regu_e)
        start, end = (torch.sigmoid(head[1:2](head[0](base, second))[:, 0].float()) for head in heads)
        final = self.backbone2[0](base, second)
        match options.style:
            case 0:
                index = None
            case 1:
                index = nearest(final, count)
            case 2:
                index = torch.cat([first, second], dim=2)
        hidden = self._align(final, index).unflatten(2, self.mask.shape)
        return Maps(torch.sigmoid(self.localization[1:9](hidden).float()), start, end)

    def _align(self, features: Tensor, neighbours: Tensor | None) -> Tensor:
        """First layer of the localisation, applied to aligned candidates: (B, C, T) to (B, O, D T)."""
        kernel, bias = (self.localization.get_parameter(name) for name in ("0.weight", "0.bias"))
        weight = kernel.reshape(len(kernel), features.shape[1], -1)  # channel-major, then slots
        ratio = self.options.sampling_ratio
        if neighbours is None:
            return project_align1d(features, self.anchors, weight, bias, ratio, check_rois=False)
        own, other = weight.split([self.options.inner_slots, self.options.context_slots], dim=2)
        context = gather(features, neighbours).mean(dim=3)
        if own.shape == other.shape:  # one pattern of samples serves both
            features, weight = torch.cat([features, context], 1), torch.cat([own, other], 1)
            return project_align1d(features, self.anchors, weight, bias, ratio, check_rois=False)
        inner = project_align1d(features, self.anchors, own, bias, ratio, check_rois=False)
        return inner + project_align1d(context, self.anchors, other, check_rois=False)

    def training_set(self, videos: Sequence[Video]) -> "GtadTrainingSet":
        """All windows that have an instance; fits the classifier of segments, if there is one."""
        if self.class_weight is not None and self.class_bias is not None:
            weight, bias = fit_classifier(videos, self.classes)
            self.class_weight.copy_(weight)
            self.class_bias.copy_(bias)
        return GtadTrainingSet(videos, self)

    def training_step(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The losses of the maps and of the boundaries, and their weighted sum."""
        columns = zip(*examples, strict=True)
        batch = Example(*(on_device(torch.stack(column), self.mask.device) for column in columns))
        return self.losses(self.maps(batch.features), batch._replace(uniform=batch.uniform.transpose(0, 1)))

    def losses(self, maps: Maps, batch: Example) -> dict[str, Tensor]:
        """Losses of a batch: an `Example` of stacked targets, but with draws (2, B, D, T)."""
        regression, classification = subgraph_loss(maps.candidates, batch.iou, self.mask, batch.uniform)
        node = node_loss(maps.start, maps.end, batch.start, batch.end)
        options = self.options
        maps_together = (
            options.regression_weight * regression + options.classification_weight * classification
        )
        total = maps_together + node
        return {"regression": regression, "classification": classification, "node": node, TOTAL: total}

    @torch.no_grad()
    def predict(self, video: Video) -> RankedProposals:
        """Ranked proposals in seconds, from all windows of a video."""
        options, grid = self.options, self.options.grid
        features = self.sequence(video.features)
        firsts = window_starts(len(features.values), grid, options.full_windows)
        values = self.as_tensor(features)
        windows = torch.stack([cut(values, first, grid.scale) for first in firsts])
        maps = [self.maps(part).candidates.float() for part in windows.split(WINDOWS_AT_ONCE)]
        segments, scores = [], []
        for first, candidates in zip(firsts, torch.cat(maps).numpy(force=True), strict=True):
            proposed, frames = candidate_frames(first, grid, options.full_windows)
            score = candidate_scores(candidates, proposed)
            if options.full_windows:
                there = frames[:, 0] < grid.skip * (len(features.values) - 0.5)
                frames, score = frames[there], score[there]
            segments.append(to_seconds(frames, features.axis, grid.skip))
            scores.append(score)
        return rank(segments, scores, features.axis.stride, options.ranking)

    def class_scores(self, video: Video, segments: Segments) -> NDArray[np.float64]:
        """Probability (N, K) of every class for segments (N, 2) of a video, by the classifier of segments."""
        if self.class_weight is None or self.class_bias is None:
            raise ValueError("there is no classifier of segments: build the detector with one")
        inputs = torch.from_numpy(segment_features(video.features, segments)).to(self.class_weight)
        logits = inputs @ self.class_weight.T + self.class_bias
        probability = logits.double().softmax(dim=1)[:, 1:].numpy(force=True)
        return np.asarray(probability, dtype=np.float64)

    def statistics(self) -> dict[str, Tensor]:
        """The classifier of segments, if there is one."""
        found = {"class_weight": self.class_weight, "class_bias": self.class_bias}
        return {name: value for name, value in found.items() if value is not None}

    def load_statistics(self, statistics: Mapping[str, Tensor]) -> None:
        """Take over the classifier of segments."""
        for name, value in self.statistics().items():
            value.copy_(statistics[name])

    def sequence(self, features: VideoFeatures) -> VideoFeatures:
        """The features that windows are cut from: as they are, or rescaled to one window."""
        rescaled = self.options.windows == "rescaled"
        return rescale(features, self.options.temporal_scale) if rescaled else features

    def as_tensor(self, features: VideoFeatures) -> Tensor:
        """Features as (C, T) where the detector is."""
        return channels_first(features).to(self.mask.device)


class GtadTrainingSet(TrainingSet):
    """All windows of the training videos that an instance lies in."""

    def __init__(self, videos: Sequence[Video], detector: Gtad) -> None:
        options, self._grid = detector.options, detector.options.grid
        self._windows: list[tuple[int, int, NDArray[np.float64]]] = []  # video, first snippet, instances
        self._features: list[Tensor] = []
        for video in videos:
            features = detector.sequence(video.features)
            instances = to_frames(video.instances, features.axis, options.skip)
            windows = [
                (len(self._features), first, seen)
                for first in window_starts(len(features.values), self._grid, options.full_windows)
                if (seen := instances_of_window(instances, first, self._grid)) is not None
            ]
            if windows:
                self._windows += windows
                self._features.append(detector.as_tensor(features))

    def __len__(self) -> int:
        return len(self._windows)

    def draw(self, index: int, rng: np.random.RandomState) -> Example:
        """Window `index`, with new draws of the candidates that count in the regression."""
        video, first, instances = self._windows[index]
        targets = window_targets(instances, first, self._grid)
        uniform = rng.random_sample((2, *targets.iou.shape)).astype(np.float32)
        arrays = (targets.start, targets.end, targets.iou, uniform)
        features = cut(self._features[video], first, self._grid.scale)
        return Example(features, *(torch.from_numpy(array) for array in arrays))


def anchors(grid: Grid) -> Tensor:
    """Extended candidates (D T, 2) in snippets, [0, 0] for those that reach beyond the window.

    Candidate (d, i) goes from snippet i to i + d, and by half of its d + 1 snippets farther on both sides.
    """
    duration, start = np.mgrid[: grid.durations, : grid.scale].reshape(2, -1).astype(np.float64)
    margin = EXTENSION * (duration + 1)
    bounds = np.stack([start - margin, start + duration + margin], axis=1)
    inside = start + duration < grid.scale
    return torch.from_numpy(np.where(inside[:, None], bounds, 0.0)).float()


def build(options: Options, widths: Sequence[int], classes: int) -> Gtad:
    """A G-TAD detector for features of streams of `widths` channels, and `classes` classes."""
    return Gtad(options, widths, classes)
