"""P-GCN's scores by one dense matrix of all edges of a batch, as published: the reference, slow and large."""

import torch
from torch import Tensor
from torch.nn import functional

from avfusion.detectors.losses import HeadScores
from avfusion.detectors.pgcn import GraphNetwork, Pgcn


def dense_adjacency(nodes: Tensor, children: int) -> Tensor:
    """Edges (N, N) of N / (1 + C + C^2) graphs whose nodes (N, D) stand one after the other."""
    count, size = len(nodes), 1 + children + children**2
    length = nodes.norm(dim=1)
    cosine = (nodes @ nodes.T) / (length[:, None] * length)
    mask = torch.zeros(count, count, device=nodes.device)
    for graph in range(0, count, size):
        for parent in range(children + 1):
            first = graph + 1 + children * parent
            mask[graph + parent, graph + parent] = 1
            mask[graph + parent, first : first + children] = 1 / children
    return functional.relu(mask * cosine)


def dense_convolutions(network: GraphNetwork, nodes: Tensor) -> Tensor:
    """Both layers for all nodes, (N, D) to (N, D); without dropout."""
    adjacency = dense_adjacency(nodes, network.fan_out)
    hidden = functional.relu(adjacency @ (nodes @ network.gc1.weight) + network.gc1.bias)
    return adjacency @ (hidden @ network.gc2.weight) + network.gc2.bias


def dense_score(model: Pgcn, inside: Tensor, parts: Tensor, graphs: Tensor) -> HeadScores:
    """What `Pgcn.score` gives, without attention and dropout."""
    size = graphs.shape[1]
    found = []
    for network, features in ((model.Act_GCN, inside), (model.Comp_GCN, parts)):
        nodes = features[graphs.flatten()]
        found.append(torch.cat([dense_convolutions(network, nodes), nodes], dim=1)[::size])
    seen, whole = found
    shifts = model.regressor_fc(whole).unflatten(1, (-1, 2))
    return HeadScores(model.activity_fc(seen), model.completeness_fc(whole), shifts)
