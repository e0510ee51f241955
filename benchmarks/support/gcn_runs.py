"""Training steps and posteriors of graph convolutional networks that benchmarks/gcn.py compares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.datasets import LabelledGraph, labelled_graph
from pyro_ext.inference import local_params
from pyro_ext.models.gcn import GCN, build
from pyro_ext.ops.graphs import adjacency_matrix, normalize_rows
from pyro_ext.ops.sparse import SparseMatrix

__all__ = ["adam", "laplace_probabilities", "parameters_of", "plain_step", "random_graph", "trained"]

WEIGHT_DECAY = 5e-4


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the published optimiser."""
    return torch.optim.Adam(parameters, lr=0.01)


def parameters_of(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def trained(data: LabelledGraph, seed: int, steps: int, **options: Any) -> tuple[GCN, Callable[..., Any]]:
    """Train what ``build`` returns for so many steps; return the network and its guide."""
    pyro.set_rng_seed(seed)
    objective = build(data, **options).players[0].objective
    batch = data.train[0]
    objective(*batch)  # makes the parameters of the guide
    optimizer = adam(parameters_of(objective))
    for _ in range(steps):
        optimizer.zero_grad()
        objective(*batch).total.backward()
        optimizer.step()
    return objective.model, objective.guide


def plain_step(data: LabelledGraph, seed: int) -> tuple[GCN, Callable[[], float]]:
    """Return a network without priors, and a training step with the published loss; the step returns the loss."""
    torch.manual_seed(seed)
    gcn = GCN(data.adjacency, data.features, data.num_classes)
    first, *later = [layer.weight for layer in gcn.layers]
    groups = [{"params": [first], "weight_decay": WEIGHT_DECAY}, {"params": later}]
    optimizer = torch.optim.Adam(groups, lr=0.01)
    labels, nodes = data.train[0]

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(gcn.logits()[nodes], labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return gcn, step


@torch.no_grad()
def laplace_probabilities(
    gcn: GCN, guide: Callable[..., Any], data: LabelledGraph, precision: float, draws: int
) -> Tensor:
    """Return probabilities averaged over a Laplace approximation of the last layer's weights.

    The Hessian is that of the negative log-likelihood of training nodes at the trained weights, which for a linear
    layer under a softmax is exact; a normal prior adds its precision.
    """
    gcn.eval()
    with local_params():
        weights = poutine.trace(guide).get_trace()
        h = poutine.replay(gcn.embeddings, trace=weights)()
    last = gcn.layers[-1]
    labels, nodes = data.train[0]
    aggregated = gcn.operator() @ h
    shape = last.weight.shape

    def loss(flat: Tensor) -> Tensor:
        return F.cross_entropy(aggregated[nodes] @ flat.view(shape).T, labels, reduction="sum")

    mode = last.weight.detach().flatten()
    with torch.enable_grad():
        hessian = torch.autograd.functional.hessian(loss, mode)
    precision_matrix = hessian.double() + precision * torch.eye(len(mode), dtype=torch.float64)
    posterior = torch.distributions.MultivariateNormal(mode.double(), precision_matrix=precision_matrix)
    samples = posterior.sample((draws,)).to(mode.dtype)
    return torch.stack([(aggregated @ flat.view(shape).T).softmax(-1) for flat in samples]).mean(0)


def random_graph(edges: int, nodes: int = 200_000, words: int = 5_000, per_node: int = 10) -> LabelledGraph:
    """Return a random graph whose nodes have random words, and 20 labels of each of 10 classes."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(nodes, (2, edges), generator=generator)
    rows = torch.arange(nodes).repeat_interleave(per_node)
    columns = torch.randint(words, (nodes * per_node,), generator=generator)
    features = SparseMatrix.from_coo(rows, columns, torch.ones(nodes * per_node), (nodes, words))
    labels = torch.randint(10, (nodes,), generator=generator)
    train = torch.cat([(labels == k).nonzero()[:20, 0] for k in range(10)])
    return labelled_graph("random", adjacency_matrix(pairs, nodes), normalize_rows(features), labels, train)
