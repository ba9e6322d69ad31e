"""P-GCN (Zeng et al., Graph Convolutional Networks for Temporal Action Localization, ICCV 2019).

    features (T, C) -> max pooling of every proposal: inside (C), and before, inside, after (3 C)
      -> graphs of proposals (`avfusion.detectors.graphs`), edges weighted by the cosine of their features
      -> two graph convolutions on the inside: activity of the root, which class or background (K + 1)
         two on all three parts: completeness of the root per class (K), shift of centre and log length (K, 2)

Parameter names and shapes are those of the published checkpoints. The published code makes one matrix of
all N x N edges of a batch. It is block-diagonal, one block per graph, and only the root's row of the last
layer is read: here only the root and its children are computed in the first layer and the root in the second,
with the same results. A feature of nothing but zeros has cosine 0 to all others (published: NaN); the
caller's features are not changed in place. Initial weights are ours: the golden data says nothing of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avfusion.data.scores import ProposalScores
from avfusion.detectors.base import Detector, TrainingSet, Video, channels_first
from avfusion.detectors.drawing import PoolTable
from avfusion.detectors.graphs import GraphOptions, Ints, grow, grow_all, grow_many, neighbours
from avfusion.detectors.losses import HeadScores, LossOptions, two_stage_losses
from avfusion.detectors.packing import fits_on, on_device
from avfusion.detectors.parts import part_rows, placed, pool_parts
from avfusion.detectors.sampling import (
    Sample,
    SamplingOptions,
    VideoPools,
    prediction_rois,
    regression_statistics,
    sample_of,
    video_candidates,
    video_pools,
    whole_ticks,
)
from avfusion.fusion.attention import attend, attended_width, attention_layers
from avfusion.options import require

TRAINING: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "steps": (15, 30, 45),
    "factor": 0.1,
    "epochs": 70,
    "passes": 20,
    "batch_size": 32,
    "accumulate": 1,
    "step_at": "first",
}  # as published for THUMOS14; see `avfusion.engine`
GRAPHS_AT_ONCE = 512  # when predicting
TINY = 1e-30  # a product of lengths that is smaller belongs to a feature of nothing but zeros


@dataclass(frozen=True)
class Options(LossOptions):
    """Options of P-GCN; the defaults are the published ones for THUMOS14.

    Attributes:
        hidden: width between the two graph convolutions.
        dropout: share of the features before the classifiers that is left out in training.
        graph_dropout: share of the hidden features of the graph convolutions that is left out in training.
        completeness_weight: weight of the completeness loss; the activity loss has 1.
        regression_weight: weight of the regression loss.
        hard_ratio: share of hard negatives in the completeness loss.
        mend_missing: leave stand-ins for missing incomplete proposals out of the completeness loss; false is
            as published, where they count as incomplete although they are foreground.
        sampling: which proposals are drawn, and how many of each kind.
        graph: how graphs of proposals are built.
        graph_seed: of the graphs that are drawn when predicting, anew for every video.
        ticks_from: where a tick of the proposals lies on the features. "window": tick 0 is the second at
            which the first snippet's window begins; as published, if the time axis of the features is true.
            "cell": as MUSES counts, half a stride before the first snippet's centre; as published for
            features whose time axis was written so that row r stands for frames 8 r to 8 r + 8.
        attention: blocks of residual multimodal attention between the picture (the first stream) and the
            sound (the rest) of every proposal; published 1 for the fusion rm_attention, and 0, none, else.
        keep_audio: let the completeness branch hear the sound before, inside and after a proposal; the
            published code (false) zeroes it, and the branch's attention has silence to attend to.
    """

    hidden: int = 512
    dropout: float = 0.8
    graph_dropout: float = 0.7
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    graph: GraphOptions = field(default_factory=GraphOptions)
    graph_seed: int = 777
    ticks_from: Literal["window", "cell"] = "window"
    attention: int = 0
    keep_audio: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden >= 1, "hidden", f"must be at least 1, not {self.hidden}")
        for name in ("dropout", "graph_dropout"):
            require(0 <= getattr(self, name) < 1, name, f"must be in [0, 1), not {getattr(self, name)}")
        for name in ("attention", "graph_seed"):
            require(getattr(self, name) >= 0, name, f"must not be negative, not {getattr(self, name)}")
        heard = self.attention > 0 or not self.keep_audio
        require(heard, "keep_audio", "needs attention: without it all streams are kept anyway")


class Example(NamedTuple):
    """A training example: some proposals of a video as graphs.

    Attributes:
        features: (C, T) of the video.
        rows: int (U, 3, 2), see `part_rows`, of the proposals that the graphs are made of.
        graphs: int (P, nodes), indices into `rows`; column 0 are the proposals that are learnt from.
        sample: kinds, labels and targets of these P proposals.
    """

    features: Tensor
    rows: Ints
    graphs: Ints
    sample: Sample


def to_float32(values: Tensor) -> Tensor:
    """`values` in float32, or as they are if they are more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class GraphConvolution(nn.Module):
    """Weights of one graph convolution; applied to nodes that have already gathered their neighbours."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.normal_(self.weight, std=(2 / channels) ** 0.5)

    def forward(self, gathered: Tensor) -> Tensor:
        """(..., C) to (..., O)."""
        return gathered @ self.weight + self.bias


class GraphNetwork(nn.Module):
    """Two graph convolutions, a ReLU after the first; gives the roots in the width that they came with."""

    def __init__(self, channels: int, options: Options) -> None:
        super().__init__()
        self.gc1 = GraphConvolution(channels, options.hidden)
        self.gc2 = GraphConvolution(options.hidden, channels)
        self.fan_out, self.dropout = options.graph.children, options.graph_dropout

    def forward(self, features: Tensor, graphs: Tensor) -> Tensor:
        """The roots (G, D) of some graphs.

        Args:
            features: (U, D) of proposals.
            graphs: int64 (G, 1 + C + C^2), the proposals that each graph is made of.
        """
        parents, children = self.by_parent(features, graphs)
        weights = self.edges(parents, children)
        hidden = functional.relu(self.gc1(parents + (weights[:, :, None] @ children).squeeze(2)))
        hidden = functional.dropout(hidden, self.dropout, self.training)
        root: Tensor = self.gc2(hidden[:, 0] + (weights[:, :1] @ hidden[:, 1:]).squeeze(1))
        return root

    def by_parent(self, features: Tensor, graphs: Tensor) -> tuple[Tensor, Tensor]:
        """The root and its children (G, C + 1, D), and the children of each of these (G, C + 1, C, D)."""
        parents = self.fan_out + 1
        children = graphs[:, 1:].unflatten(1, (parents, self.fan_out))
        return features[graphs[:, :parents]], features[children]

    def edges(self, parents: Tensor, children: Tensor) -> Tensor:
        """Weights (G, C + 1, C) of the edges to the children: cosines that are not negative, divided by C.

        The published adjacency holds them in its first C + 1 rows, with 1 on the diagonal; the leaves'
        rows are empty. In mixed precision they stay float32: there is little to compute and much to lose.
        """
        with torch.autocast(parents.device.type, enabled=False):
            parents, children = (to_float32(values) for values in (parents, children))
            lengths = children.norm(dim=3, keepdim=True) * parents.norm(dim=2)[:, :, None, None]
            cosines = (children @ parents[..., None]) / lengths.clamp(min=TINY)
            return functional.relu(cosines.squeeze(3)) / self.fan_out


class PgcnTrainingSet(TrainingSet):
    """Training videos that have an instance; an example is graphs around freshly drawn proposals."""

    def __init__(
        self, features: Sequence[Tensor], rows: Sequence[Ints], pools: Sequence[VideoPools], detector: "Pgcn"
    ) -> None:
        self._features, self._rows, self._pools = features, rows, pools
        self._options = detector.options
        self._statistics = detector.reg_stats.numpy(force=True)
        self._neighbours = [neighbours(pool_segments(p), self._options.graph) for p in pools]
        counts = self._options.sampling.counts
        self._table = PoolTable(pools, self._statistics, counts)
        sizes = np.array([len(table) for table in self._neighbours])
        self._before = np.cumsum(sizes) - sizes
        joined = zip(self._neighbours, self._before, strict=True)
        self._all_neighbours = np.concatenate([table + before for table, before in joined])

    def __len__(self) -> int:
        return len(self._pools)

    def draw(self, index: int, rng: np.random.RandomState) -> Example:
        """Graphs around new proposals of a video; each graph is drawn right after its root, as published."""
        pools, children = self._pools[index], self._options.graph.children
        before = np.cumsum([0, *(len(pool) for pool in pools.kinds())])
        graphs, drawn = [], []
        for count, pool in zip(self._options.sampling.counts, pools.offered(), strict=True):
            chosen = []
            for _ in range(count):
                chosen.append(int(rng.choice(len(pool))))
                root = int(before[pool.kind]) + chosen[-1]
                graphs.append(grow(root, self._neighbours[index], children, rng))
            drawn.append((pool, np.array(chosen)))
        used, nodes = np.unique(np.array(graphs), return_inverse=True)
        rows, nodes = self._rows[index][used], nodes.reshape(len(graphs), -1)
        return Example(self._features[index], rows, nodes, sample_of(drawn, self._statistics))

    def draw_many(self, indices: Sequence[int], rng: np.random.RandomState) -> list[Example]:
        """Graphs around new proposals of several videos: first all proposals are drawn, then all graphs."""
        chosen = self._table.choose(np.asarray(indices), rng)
        samples = self._table.at(chosen)
        grown = grow_many(chosen.ravel(), self._all_neighbours, self._options.graph.children, rng)
        graphs = grown.reshape(*chosen.shape, -1) - self._before[indices][:, None, None]
        examples = []
        for k, index in enumerate(indices):
            used, nodes = np.unique(graphs[k], return_inverse=True)
            sample = Sample(samples.rois[k], samples.kinds[k], samples.labels[k], samples.targets[k])
            rows = self._rows[index][used]
            examples.append(Example(self._features[index], rows, nodes.reshape(graphs[k].shape), sample))
        return examples


def pool_segments(pools: VideoPools) -> Ints:
    """Start and end in ticks (N, 2) of all proposals of a video's pools; their RoIs begin one tick later."""
    return np.concatenate([pool.rois[:, :2] for pool in pools.kinds()]) - np.array([1, 0])


class Pgcn(Detector[ProposalScores]):
    """The P-GCN detector; see the module's text.

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
        self.options, self.classes, self.channels = options, classes, sum(widths)
        self.width = attended_width(widths) if options.attention else self.channels
        whole = 3 * self.width
        self.activity_fc = nn.Linear(2 * self.width, classes + 1)
        self.completeness_fc = nn.Linear(2 * whole, classes)
        self.regressor_fc = nn.Linear(2 * whole, 2 * classes)
        for layer in (self.activity_fc, self.completeness_fc, self.regressor_fc):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        self.Act_GCN = GraphNetwork(self.width, options)
        self.Comp_GCN = GraphNetwork(whole, options)
        if options.attention:
            for width in (self.width, whole):
                for sense in "va":
                    self.add_module(f"U_{sense}{width}", attention_layers(width))
        neutral = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
        self.register_buffer("reg_stats", neutral, persistent=False)

    def score(self, inside: Tensor, parts: Tensor, graphs: Tensor) -> HeadScores:
        """Scores of the roots of some graphs.

        Args:
            inside: (U, C), features of proposals.
            parts: (U, 3 C), features before, inside and after them.
            graphs: int64 (G, nodes), the proposals that each graph is made of.
        """
        return self._judge(*self._attended(inside, parts), graphs)

    def _judge(self, inside: Tensor, parts: Tensor, graphs: Tensor) -> HeadScores:
        """`score` of features in which picture and sound are one."""
        seen = torch.cat([self.Act_GCN(inside, graphs), inside[graphs[:, 0]]], dim=1)
        whole = torch.cat([self.Comp_GCN(parts, graphs), parts[graphs[:, 0]]], dim=1)
        seen, whole = (functional.dropout(x, self.options.dropout, self.training) for x in (seen, whole))
        shifts = self.regressor_fc(whole).unflatten(1, (-1, 2))
        return HeadScores(self.activity_fc(seen), self.completeness_fc(whole), shifts)

    def _attended(self, inside: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Picture and sound of proposals as one: (U, C) and (U, 3 C) to (U, W) and (U, 3 W)."""
        if not self.options.attention:
            return inside, parts

        def joined(visual: Tensor, sound: Tensor) -> Tensor:
            seeing, hearing = (self.get_submodule(f"U_{sense}{visual.shape[1]}") for sense in "va")
            return attend(seeing, hearing, visual, sound, self.options.attention)

        by_part = parts.unflatten(1, (3, self.channels))
        seen, heard = by_part[..., : self.width].flatten(1), by_part[..., self.width :].flatten(1)
        if not self.options.keep_audio:
            heard = torch.zeros_like(heard[:1])
        return joined(inside[:, : self.width], inside[:, self.width :]), joined(seen, heard)

    def training_set(self, videos: Sequence[Video]) -> PgcnTrainingSet:
        """Pools of all videos that have an instance and proposals; fits the regression statistics on them."""
        pools, rows, features, device = [], [], [], self.reg_stats.device
        for video in videos:
            values, ticks, window = placed(video.features, self.options.ticks_from)
            instances, proposals = video_candidates(replace(video, features=values), self.classes, ticks)
            if len(instances):
                found = video_pools(instances, proposals, ticks, self.options.sampling)
                rois = np.concatenate([pool.rois for pool in found.kinds()])
                pools.append(found)
                rows.append(part_rows(rois, len(values.values), window))
                features.append(channels_first(values))
        self.reg_stats.copy_(torch.from_numpy(regression_statistics(pools)))
        if fits_on(device, sum(values.nbytes for values in features)):
            features = [values.to(device) for values in features]
        return PgcnTrainingSet(features, rows, pools, self)

    def training_step(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The three losses and their weighted sum."""
        device = self.reg_stats.device
        counts = [len(example.rows) for example in examples]
        before = np.cumsum([0, *counts])
        graphs = np.concatenate([e.graphs + first for e, first in zip(examples, before, strict=False)])
        rows = on_device(np.concatenate([example.rows for example in examples]), device)
        pooled = [
            pool_parts(on_device(e.features, device), some)
            for e, some in zip(examples, rows.split(counts), strict=True)
        ]
        parts = torch.cat(pooled)
        scores = self.score(parts[:, 1], parts.flatten(1), on_device(graphs, device))

        def column(name: str) -> Tensor:
            stacked = np.stack([getattr(example.sample, name) for example in examples])
            return on_device(stacked, device)

        scores = HeadScores(*(to_float32(values) for values in scores))  # losses are not for bfloat16
        return self.losses(scores, column("kinds"), column("labels"), column("targets"))

    def losses(self, scores: HeadScores, kinds: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`two_stage_losses` of G groups of P proposals."""
        return two_stage_losses(scores, kinds, labels, targets, self.options.sampling.counts, self.options)

    @torch.no_grad()
    def predict(self, video: Video) -> ProposalScores:
        """Scores of all proposals of a video, with real (de-normalised) shifts."""
        device, options = self.reg_stats.device, self.options
        values, ticks, window = placed(video.features, options.ticks_from)
        segments = np.clip(whole_ticks(video.proposals, values), 0, ticks)
        rois = prediction_rois(segments / ticks, ticks)
        table = neighbours(segments, options.graph, first_alike=True)
        graphs = grow_all(table, options.graph.children, np.random.RandomState(options.graph_seed))
        rows = torch.from_numpy(part_rows(rois, len(values.values), window)).to(device)
        parts = pool_parts(channels_first(values).to(device), rows)
        joined = self._attended(parts[:, 1], parts.flatten(1))
        some = on_device(graphs, device).split(GRAPHS_AT_ONCE)
        scores = [self._judge(*joined, chosen) for chosen in some]
        activity, completeness, shifts = (torch.cat(columns) for columns in zip(*scores, strict=True))
        shifts = shifts * self.reg_stats[1] + self.reg_stats[0]
        arrays = [tensor.float().numpy(force=True) for tensor in (activity, completeness, shifts)]
        return ProposalScores(np.asarray(video.proposals, dtype=np.float64), *arrays)

    def statistics(self) -> dict[str, Tensor]:
        """The regression statistics, under the name that published checkpoints use."""
        return {"reg_stats": self.reg_stats}

    def load_statistics(self, statistics: Mapping[str, Tensor]) -> None:
        """Take over `reg_stats`."""
        self.reg_stats.copy_(statistics["reg_stats"])


def build(options: Options, widths: Sequence[int], classes: int) -> Pgcn:
    """A P-GCN detector for features of streams of `widths` channels, and `classes` classes."""
    return Pgcn(options, widths, classes)
