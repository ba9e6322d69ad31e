"""MUSES (Liu et al., Multi-shot Temporal Event Localization, CVPR 2021): scores and refines proposals.

    features (B, C, T)
      -> with attention: picture and sound as one, as wide as the picture (`avfusion.fusion.attention`)
      -> backbone: two layers of multi-scale temporal aggregation, each with a ReLU
      -> RoI max pooling of the proposal extended by half its length on both sides, 2 S bins
      -> middle S bins: activity, which class or background (K + 1)
         all 2 S bins: completeness per class (K), shift of centre and log length per class (K, 2)

Parameter names and shapes are those of the published checkpoints. What differs from the published code: the
four branches of a layer are computed as one convolution (same function, see `avfusion.ops.msta`); training
computes the backbone only where proposals read it, of many videos at once (see `packing`); the caller's RoIs
are not changed in place. Initial weights and the place of dropout are ours: the golden data says nothing of
them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from avfusion.data.scores import ProposalScores
from avfusion.detectors.base import Detector, TrainingSet, Video, channels_first
from avfusion.detectors.drawing import PoolTable, SampleTable
from avfusion.detectors.losses import HeadScores, LossOptions, two_stage_losses
from avfusion.detectors.packing import FeatureBank, Packed, on_device, pack
from avfusion.detectors.sampling import (
    SPATIAL_SCALE,
    TICKS_PER_SNIPPET,
    Ints,
    SamplingOptions,
    VideoPools,
    regression_statistics,
    tick_count,
    video_candidates,
    video_pools,
    video_rois,
)
from avfusion.errors import InputError
from avfusion.fusion.attention import attend, attended_width, attention_layers
from avfusion.ops import msta_conv1d, roi_max_pool1d
from avfusion.ops.msta import branch_taps
from avfusion.options import require

KERNEL_SIZES = ((1, 3), (3, 3), (3, 3), (3, 3))  # rows (units) and columns (snippets) of the branches
UNITS = (3, 3, 6, 9)  # snippets per unit of the branches
REACH = max(branch_taps(KERNEL_SIZES[-1], UNITS[-1]))  # snippets that a layer reads on each side


@dataclass(frozen=True)
class Options(LossOptions):
    """Options of MUSES; the defaults are the published ones for THUMOS14.

    Attributes:
        backbone_dims: channels of the two aggregation layers.
        hidden: width of the two hidden layers of the heads.
        roi_size: bins S of the proposal itself.
        dropout: share of the hidden units of the heads that is left out in training.
        completeness_weight: weight of the completeness loss; the activity loss has 1.
        regression_weight: weight of the regression loss.
        hard_ratio: share of hard negatives in the completeness loss.
        attention: blocks of residual multimodal attention between the picture (the first stream) and the
            sound (the rest) before the backbone; published 1 for the fusion rm_attention, and 0, none, else.
        groups: samples of proposals (see `sampling`) that share one pass of a video through the backbone.
            Published is 1; more train the heads on more proposals for little more time.
        sampling: which proposals are drawn, and how many of each kind.
        mend_missing: leave stand-ins for missing incomplete proposals out of the completeness loss; false is
            as published, where they count as incomplete although they are foreground.
    """

    backbone_dims: tuple[int, ...] = (384, 512)
    hidden: int = 384
    roi_size: int = 4
    dropout: float = 0.8
    attention: int = 0
    groups: int = 1
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        dims = self.backbone_dims
        require(len(dims) == 2 and min(dims) >= 1, "backbone_dims", f"must be two widths, not {dims}")
        for name in ("hidden", "groups"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        even = self.roi_size >= 2 and self.roi_size % 2 == 0
        require(even, "roi_size", f"must be even, so that half of it fits on both sides, not {self.roi_size}")
        require(0 <= self.dropout < 1, "dropout", f"must be in [0, 1), not {self.dropout}")
        require(self.attention >= 0, "attention", f"must not be negative, not {self.attention}")


class Example(NamedTuple):
    """A training example: video `video` of the bank, and one or more samples of its proposals."""

    bank: FeatureBank
    video: int
    samples: SampleTable


class Branch(nn.Module):
    """Weights of one branch of an aggregation layer, in the published shape (out, in, 1, rows * columns)."""

    def __init__(self, channels: int, out_channels: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, channels, 1, taps))
        self.bias = nn.Parameter(torch.zeros(out_channels))


class AggregationLayer(nn.Module):
    """Multi-scale temporal aggregation: (B, C, T) to (B, O, T)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        taps = [rows * columns for rows, columns in KERNEL_SIZES]
        self.branches = nn.ModuleList(Branch(channels, out_channels, count) for count in taps)
        for weight in self._of_branches("weight"):
            # He initialisation of the sum of the branches
            nn.init.normal_(weight, std=(2 / (channels * sum(taps))) ** 0.5)

    def _of_branches(self, name: str) -> list[Tensor]:
        return [branch.get_parameter(name) for branch in self.branches]

    def forward(self, features: Tensor) -> Tensor:
        """Sum of the branches."""
        weights, biases = self._of_branches("weight"), self._of_branches("bias")
        return msta_conv1d(features, weights, biases, KERNEL_SIZES, UNITS)


class Backbone(nn.Module):
    """Two aggregation layers with ReLU; (B, C, T) to (B, D, T)."""

    def __init__(self, channels: int, dims: Sequence[int]) -> None:
        super().__init__()
        widths = (channels, *dims)
        layers: list[nn.Module] = []
        for width, out in pairwise(widths):
            layers += [AggregationLayer(width, out), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Apply the layers; what `inside` (B, 1, T) marks with 0 is no snippet and 0 after every layer."""
        for layer in self.layers:
            features = layer(features)
            if inside is not None and isinstance(layer, nn.ReLU):
                features = features * inside.to(features.dtype)
        return features


class RoiHead(nn.Module):
    """Pooled proposals (N, D, 2 S) to scores; attribute names are those of the published checkpoints."""

    def __init__(self, channels: int, classes: int, options: Options) -> None:
        super().__init__()
        size, hidden = options.roi_size, options.hidden
        self.margin = size // 2
        self.activity_fc = nn.Linear(hidden, classes + 1)
        self.completeness_fc = nn.Linear(hidden, classes)
        self.regressor_fc = nn.Linear(hidden, 2 * classes)
        self.Act_MLP = self._hidden(channels * size, hidden, options.dropout)
        self.Comp_MLP = self._hidden(channels * size * 2, hidden, options.dropout)
        for layer in (self.activity_fc, self.completeness_fc, self.regressor_fc):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @staticmethod
    def _hidden(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(linear, nn.ReLU(), nn.Dropout(dropout))

    def forward(self, pooled: Tensor) -> HeadScores:
        """Scores of N pooled proposals."""
        middle = pooled[:, :, self.margin : pooled.shape[2] - self.margin]
        activity = self.Act_MLP(middle.flatten(1))
        whole = self.Comp_MLP(pooled.flatten(1))
        shifts = self.regressor_fc(whole).unflatten(1, (-1, 2))
        return HeadScores(self.activity_fc(activity), self.completeness_fc(whole), shifts)


class MusesTrainingSet(TrainingSet):
    """Training videos that have an instance; an example is the video and freshly drawn proposals."""

    def __init__(self, bank: FeatureBank, pools: Sequence[VideoPools], detector: "Muses") -> None:
        options = detector.options
        self._bank, self._count, self._groups = bank, len(pools), options.groups
        statistics = detector.reg_stats.numpy(force=True)
        self._table = PoolTable(pools, statistics, options.sampling.counts)

    def __len__(self) -> int:
        return self._count

    def draw(self, index: int, rng: np.random.RandomState) -> Example:
        """Video `index` with newly drawn proposals."""
        return self.draw_many([index], rng)[0]

    def draw_many(self, indices: Sequence[int], rng: np.random.RandomState) -> list[Example]:
        """Several videos with newly drawn proposals, by one look into the table."""
        drawn = self._table.at(self._table.choose(np.repeat(indices, self._groups), rng))
        parts = [drawn[i : i + self._groups] for i in range(0, len(drawn), self._groups)]
        return [Example(self._bank, k, part) for k, part in zip(indices, parts, strict=True)]


class Muses(Detector[ProposalScores]):
    """The MUSES detector; see the module's text.

    Args:
        options: see `Options`.
        widths: channels of every stream of the features, the picture first.
        classes: number of classes, without background.

    Attributes:
        options: how it was built.
        reg_stats: float64 (2, 2), mean and deviation of the regression targets (centre, log length).
    """

    needs_proposals = True
    mixed_precision = True
    options: Options
    reg_stats: Tensor

    def __init__(self, options: Options, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.options, self.classes = options, classes
        self.width = attended_width(widths) if options.attention else sum(widths)
        self.backbone = Backbone(self.width, options.backbone_dims)
        self.roi_head = RoiHead(options.backbone_dims[-1], classes, options)
        if options.attention:
            self.U_v, self.U_a = attention_layers(self.width), attention_layers(self.width)
        neutral = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
        self.register_buffer("reg_stats", neutral, persistent=False)

    def score(self, features: Tensor, rois: Tensor, inside: Tensor | None = None) -> HeadScores:
        """Scores of proposals.

        Args:
            features: (B, C, T).
            rois: (N, 5): index into the batch, and start, end, extended start, extended end in ticks.
                Only the extended interval is pooled; one without length counts as one tick long.
            inside: (B, 1, T), 0 where there is no snippet; None if there is one everywhere.
        """
        start, end = rois[:, 3], rois[:, 4]
        pooled_rois = torch.stack([rois[:, 0], start, torch.maximum(end, start + 1)], dim=1)
        bins = 2 * self.options.roi_size
        features = self.backbone(self._attended(features, inside), inside)
        pooled = roi_max_pool1d(features, pooled_rois, bins, SPATIAL_SCALE, check_rois=False)
        scores: HeadScores = self.roi_head(pooled)
        return scores

    def training_set(self, videos: Sequence[Video]) -> MusesTrainingSet:
        """Pools of all videos that have an instance and proposals; fits the regression statistics on them.

        Raises:
            InputError: there is no such video.
        """
        pools, features = [], []
        for video in videos:
            instances, proposals = video_candidates(video, self.classes)
            if len(instances):
                ticks = tick_count(video.features)
                pools.append(video_pools(instances, proposals, ticks, self.options.sampling))
                features.append(video.features.values)
        if not pools:
            raise InputError("annotations", "no video with features has an instance to train on")
        self.reg_stats.copy_(torch.from_numpy(regression_statistics(pools)))
        return MusesTrainingSet(FeatureBank(features, self.reg_stats.device), pools, self)

    def training_step(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The three losses and their weighted sum."""
        return {name: losses[0] for name, losses in self.training_steps([examples]).items()}

    def training_steps(self, batches: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
        """The losses of several batches, of which all that is read makes one sequence."""
        examples, groups = [example for batch in batches for example in batch], self.options.groups
        samples = SampleTable.joined(example.samples for example in examples)
        videos = np.repeat([example.video for example in examples], groups)
        packed, rois = self._read(examples[0].bank, videos, samples.rois)
        device, dtype = packed.features.device, self.roi_head.activity_fc.weight.dtype
        scores = self.score(packed.features.to(dtype), on_device(rois, device), packed.inside)
        # Under autocast scores are bfloat16, and losses of them would be as well.
        exact = torch.promote_types(scores.activity.dtype, torch.float32)
        scores = HeadScores(*(values.to(exact) for values in scores))

        batch = np.repeat(np.arange(len(batches)), [len(batch) * groups for batch in batches])
        members = (batch == np.arange(len(batches))[:, None]).astype(np.float32)
        columns = (samples.kinds, samples.labels, samples.targets, members)
        kinds, labels, targets, belongs = (on_device(column, device) for column in columns)
        counts = self.options.sampling.counts
        return two_stage_losses(scores, kinds, labels, targets, counts, self.options, belongs)

    def _read(self, bank: FeatureBank, videos: Ints, rois: Ints) -> tuple[Packed, Ints]:
        """What G samples of P proposals (G, P, 4) of `videos` (G,) read, and where: RoIs (G * P, 5) in it."""
        owners, flat = np.repeat(videos, rois.shape[1]), rois.reshape(-1, 4)
        spans = read_spans(flat, bank.lengths[owners])
        packed = pack(bank, owners, spans, REACH, len(self.options.backbone_dims))
        shifted = flat + packed.shifts[:, None] * TICKS_PER_SNIPPET
        return packed, np.concatenate([np.zeros_like(flat[:, :1]), shifted], axis=1)

    def losses(self, scores: HeadScores, kinds: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`two_stage_losses` of G groups of P proposals that make one batch."""
        return two_stage_losses(scores, kinds, labels, targets, self.options.sampling.counts, self.options)

    @torch.no_grad()
    def predict(self, video: Video) -> ProposalScores:
        """Scores of all proposals of a video, with real (de-normalised) shifts."""
        rois = torch.from_numpy(video_rois(video.features, video.proposals)).to(self.reg_stats.device)
        rois = torch.cat([torch.zeros_like(rois[:, :1]), rois], dim=1)
        features = channels_first(video.features).to(rois.device)
        scores = self.score(features[None], rois)
        shifts = scores.regression * self.reg_stats[1] + self.reg_stats[0]
        arrays = [tensor.float().numpy(force=True) for tensor in (*scores[:2], shifts)]
        return ProposalScores(np.asarray(video.proposals, dtype=np.float64), *arrays)

    def statistics(self) -> dict[str, Tensor]:
        """The regression statistics, under the name that published checkpoints use."""
        return {"reg_stats": self.reg_stats}

    def load_statistics(self, statistics: Mapping[str, Tensor]) -> None:
        """Take over `reg_stats`."""
        self.reg_stats.copy_(statistics["reg_stats"])

    def _attended(self, features: Tensor, inside: Tensor | None) -> Tensor:
        """Picture and sound (B, C, T) as one, (B, width, T); padding stays 0."""
        if not self.options.attention:
            return features
        seen, heard = features.mT.tensor_split([self.width], dim=2)
        joined = attend(self.U_v, self.U_a, seen, heard, self.options.attention).mT
        return joined if inside is None else joined * inside.to(joined.dtype)


def read_spans(rois: Ints, lengths: Ints) -> Ints:
    """First snippet and end (exclusive) of what RoI pooling reads, (N, 2).

    Args:
        rois: (N, 4) in ticks; the extended interval counts.
        lengths: (N,), snippets of the video of each.
    """
    start, end = rois[:, 2], np.maximum(rois[:, 3], rois[:, 2] + 1)
    first = np.clip(start // TICKS_PER_SNIPPET, 0, lengths - 1)
    # The last bin ends at the ceiling of (end + 1) / 8; rounding could make that one snippet more.
    last = np.clip(-(-(end + 1) // TICKS_PER_SNIPPET) + 1, first + 1, lengths)
    return np.stack([first, last], axis=1)


def build(options: Options, widths: Sequence[int], classes: int) -> Muses:
    """A MUSES detector for features of streams of `widths` channels, and `classes` classes."""
    return Muses(options, widths, classes)
