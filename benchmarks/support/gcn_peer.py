"""The same training step by PyTorch Geometric, in its usual settings, with the normalised adjacency kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_geometric
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GCNConv

from pyro_ext.datasets import LabelledGraph
from pyro_ext.ops.sparse import stored_rows

__all__ = ["VERSION", "geometric_step"]

VERSION = torch_geometric.__version__


class Net(nn.Module):
    """Two layers with 16 hidden units; dropout on the inputs of both, on stored values if they are sparse."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.first = GCNConv(num_features, 16, cached=True, bias=False)
        self.second = GCNConv(16, num_classes, cached=True, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return the logits of all nodes."""
        if x.is_sparse:
            x = torch.sparse_coo_tensor(x.indices(), F.dropout(x.values()), x.shape, is_coalesced=True)
        else:
            x = F.dropout(x)
        return self.second(F.dropout(self.first(x, edges).relu()), edges)


def geometric_step(data: LabelledGraph, sparse: bool) -> Callable[[], None]:
    """Return a training step.

    Args:
        data: the graph.
        sparse: whether features are a sparse tensor (COO) or a dense one, as the library's data sets have them.
    """
    torch.manual_seed(0)
    net = Net(data.features.shape[1], data.num_classes)
    edges = torch.stack([stored_rows(data.adjacency), data.adjacency.col])
    if sparse:
        places = torch.stack([stored_rows(data.features), data.features.col])
        x = torch.sparse_coo_tensor(places, data.features.values, data.features.shape).coalesce()
    else:
        x = data.features.to_dense()
    groups = [{"params": net.first.parameters(), "weight_decay": 5e-4}, {"params": net.second.parameters()}]
    optimizer = torch.optim.Adam(groups, lr=0.01)
    labels, nodes = data.train[0]

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x, edges)[nodes], labels).backward()
        optimizer.step()

    return step
