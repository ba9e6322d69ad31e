"""Graph layers of G-TAD: snippets joined with their neighbours in time and with those that are most alike."""

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUP_WIDTH = 4  # channels of a group inside of a layer


def nearest(features: Tensor, count: int) -> Tensor:
    """Indices (B, T, count) of the snippets of (B, C, T) that are most alike, itself included."""
    values = features.detach().float()
    with torch.autocast(values.device.type, enabled=False):
        squares = values.square().sum(dim=1)
        distance = squares[:, :, None] - 2 * values.mT @ values + squares[:, None, :]
        return distance.topk(count, dim=2, largest=False).indices


def gather(features: Tensor, index: Tensor) -> Tensor:
    """Features (B, C, T) of the snippets `index` (B, T, k), as (B, C, T, k)."""
    flat = index.flatten(1)[:, None].expand(-1, features.shape[1], -1)
    return features.gather(2, flat).unflatten(2, index.shape[1:])


class GraphLayer(nn.Module):
    """GCNeXt: neighbours in time by a convolution, neighbours in feature space by edges; (B, C, T) to same.

    An edge is [neighbour, snippet] through three 1x1 convolutions; the largest of a snippet's edges counts.
    """

    def __init__(self, channels: int, groups: int, neighbours: int) -> None:
        super().__init__()
        width, self.neighbours = groups * GROUP_WIDTH, neighbours
        self.tconvs = nn.Sequential(
            nn.Conv1d(channels, width, 1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.Conv1d(width, channels, 1),
        )
        self.sconvs = nn.Sequential(
            nn.Conv2d(2 * channels, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1),
        )

    def forward(self, features: Tensor, index: Tensor | None = None) -> Tensor:
        """New features; `index` (B, T, k) are the neighbours, found here if they are not given."""
        index = nearest(features, self.neighbours) if index is None else index
        weight, bias = self.sconvs.get_parameter("0.weight"), self.sconvs.get_parameter("0.bias")
        neighbour, own = weight[..., 0].chunk(2, dim=1)
        edges = gather(functional.conv1d(features, neighbour), index)
        edges = edges + functional.conv1d(features, own, bias)[..., None]
        similar = self.sconvs[1:](edges).max(dim=3).values
        return functional.relu(self.tconvs(features) + features + similar)
