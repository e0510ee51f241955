"""The graph convolutional network as a Pyro program."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from pyro_ext.models.toolkit import data_plate
from pyro_ext.nn import ChebyshevConvolution, GraphConvolution, SparseBuffer, glorot_uniform, normalize_adjacency
from pyro_ext.ops.graphs import scaled_laplacian
from pyro_ext.ops.sparse import SparseMatrix, dropout, dropout_values, stored_rows
from pyro_ext.utils.checks import number_between, one_of, optional_positive_int, positive_int, positive_number

__all__ = ["GCN", "PROPAGATIONS", "Propagation", "init_to_glorot"]

Propagation = Literal[
    "renormalised", "chebyshev_3", "chebyshev_2", "first_order", "single_parameter", "first_order_term", "mlp"
]
SelfLoops = Literal["add", "remaining", "none"]

PROPAGATIONS: Mapping[str, str] = MappingProxyType(
    {
        "chebyshev_3": r"\sum_{k=0}^{3} T_k(\tilde L) X W_k",
        "chebyshev_2": r"\sum_{k=0}^{2} T_k(\tilde L) X W_k",
        "first_order": r"X W_0 + D^{-1/2} A D^{-1/2} X W_1",
        "single_parameter": r"(I + D^{-1/2} A D^{-1/2}) X W",
        "renormalised": r"\tilde D^{-1/2} \tilde A \tilde D^{-1/2} X W",
        "first_order_term": r"D^{-1/2} A D^{-1/2} X W",
        "mlp": r"X W",
    }
)
"""How a layer propagates features -> its formula, in the order of the publication's table 3."""

_ORDERS = {"chebyshev_3": 3, "chebyshev_2": 2, "first_order": 1}


class GCN(PyroModule):
    r"""A network of graph convolutions that gives each node of a graph a class.

    .. math::
        H_0 = X, \quad H_{l+1} = \mathrm{relu}(\hat A \, \mathrm{drop}(H_l) W_l), \quad
        y_n \sim \mathrm{Categorical}(\mathrm{softmax}(\hat A \, \mathrm{drop}(H_L) W_L)_n)

    Weights with a finite prior scale are sites :math:`W_l \sim N(0, s_l^2)`, called ``layers.0.weight`` and so on; the
    others are parameters of the module. With an :class:`~pyro.infer.autoguide.AutoDelta` guide the prior of the first
    layer is the publication's weight decay: :math:`s = (n \lambda)^{-1/2}` for n labelled nodes and the penalty
    :math:`\frac{\lambda}{2} \lVert W_0 \rVert^2` beside the mean cross entropy. Any other guide makes the network
    Bayesian.

    The module holds the graph, in buffers that ``state_dict`` leaves out. It is called with labels and the nodes that
    have them.

    Args:
        adjacency: the weights of the edges, symmetric, N x N, before any normalisation.
        features: the features of the nodes, N x F.
        num_classes: the number C of classes.
        size: the number of labelled nodes that the plate stands for; those of each call if None.
        hidden: the widths of the hidden layers.
        dropout: the probability that an input of a layer is dropped in training mode, in [0, 1).
        propagation: how features reach neighbours, see :data:`PROPAGATIONS`.
        self_loops: what ``"renormalised"`` does with edges from a node to itself, see
            :func:`~pyro_ext.ops.graphs.normalize_adjacency`.
        prior_scales: the standard deviation of the prior of each layer's weights; infinity for parameters without one.
            By default all are parameters.
        likelihood_power: the power of the likelihood of labels; 1 is Bayes' rule, more makes the posterior narrower.

    Raises:
        ValueError: if an argument is out of range, or sizes do not fit.

    References:
        | Semi-supervised classification with graph convolutional networks (Kipf and Welling, 2017)
        | https://arxiv.org/abs/1609.02907, section 3.1

    Example:
        >>> from pyro_ext.datasets import karate_club
        >>> data = karate_club()
        >>> gcn = GCN(data.adjacency, data.features, data.num_classes, prior_scales=(1.0, 1.0))
        >>> labels, nodes = data.train[0]
        >>> trace = pyro.poutine.trace(gcn).get_trace(labels, nodes)
        >>> [*trace.stochastic_nodes][:2], trace.nodes["y"]["value"]
        (['layers.0.weight', 'layers.1.weight'], tensor([0, 1, 2, 3]))
    """

    def __init__(
        self,
        adjacency: SparseMatrix,
        features: SparseMatrix,
        num_classes: int,
        size: int | None = None,
        hidden: Sequence[int] = (16,),
        dropout: float = 0.5,
        propagation: Propagation = "renormalised",
        self_loops: SelfLoops = "add",
        prior_scales: Sequence[float] | None = None,
        likelihood_power: float = 1.0,
    ) -> None:
        super().__init__()
        positive_int("num_classes", num_classes, minimum=2)
        self.size = optional_positive_int("size", size)
        self.likelihood_power = positive_number("likelihood_power", likelihood_power)
        self.dropout = number_between("dropout", dropout, 0, 1, "[)")
        one_of("propagation", propagation, PROPAGATIONS)
        if features.shape[0] != adjacency.shape[0]:
            raise ValueError(f"features must have {adjacency.shape[0]} rows, as adjacency has, got {features.shape[0]}")
        self.features = SparseBuffer(features)
        operator = _operator(adjacency, propagation, self_loops)
        self.operator = None if operator is None else SparseBuffer(operator)
        widths = [features.shape[1], *(positive_int("hidden", width) for width in hidden), num_classes]
        scales = [math.inf] * (len(widths) - 1) if prior_scales is None else [*prior_scales]
        if len(scales) != len(widths) - 1 or not all(scale > 0 for scale in scales):
            raise ValueError(f"prior_scales must be {len(widths) - 1} positive numbers or infinities, got {scales}")
        order = _ORDERS.get(propagation)
        self.layers = PyroModule[nn.ModuleList](
            [
                GraphConvolution(before, after) if order is None else ChebyshevConvolution(before, after, order)
                for before, after in itertools.pairwise(widths)
            ]
        )
        self.prior_scales = tuple(map(float, scales))
        for layer, scale in zip(self.layers, scales, strict=True):
            if math.isfinite(scale):
                _put_prior(layer, scale)

    def forward(self, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Observe the labels ``y`` of the nodes ``index``; return the logits of these nodes, shape ``(..., n, C)``.

        Args:
            y: classes, int64 ``(n,)``; sampled if None.
            index: numbers of nodes, int64 ``(n,)``; all nodes if None.
        """
        logits = self.logits()
        chosen = logits if index is None else logits[..., index, :]
        places = torch.arange(chosen.shape[-2], device=chosen.device)
        plate = data_plate(self.size or len(places), places, places, name="nodes")
        with plate, pyro.poutine.scale(scale=self.likelihood_power):
            pyro.sample("y", dist.Categorical(logits=chosen), obs=y)
        return chosen

    def logits(self) -> Tensor:
        """Return the logits of all nodes, shape ``(..., N, C)``; weights with a prior are sampled."""
        last = self.layers[-1]
        return last(self._dropped(self.embeddings()), self._propagator())

    def embeddings(self) -> Tensor | SparseMatrix:
        """Return what the last layer sees before dropout, ``(..., N, width)``; the features if it is the only layer."""
        h: Tensor | SparseMatrix = self.features()
        for layer in self.layers[:-1]:
            h = layer(self._dropped(h), self._propagator()).relu()
        return h

    @property
    def device(self) -> torch.device:
        """Where the graph lies."""
        return self.features().device

    def _propagator(self) -> SparseMatrix | None:
        return None if self.operator is None else self.operator()

    def _dropped(self, h: Tensor | SparseMatrix) -> Tensor | SparseMatrix:
        if isinstance(h, SparseMatrix):
            return dropout_values(h, self.dropout, self.training)
        return dropout(h, self.dropout, self.training)


def init_to_glorot(site: Mapping[str, Any]) -> Tensor:
    """Return initial weights as they are drawn without a prior, for ``init_loc_fn`` of an autoguide.

    Args:
        site: a site of weights; sites of less than two dims, such as labels, are sampled from their distribution.
    """
    shape = site["fn"].batch_shape + site["fn"].event_shape
    with torch.no_grad():
        value = site["fn"].sample()
        return glorot_uniform(value.expand(shape)) if len(site["fn"].event_shape) >= 2 else value


def _put_prior(layer: PyroModule, scale: float) -> None:
    """Give the weights of a layer a normal prior, which follows the layer to other devices and types."""
    shape = layer.weight.shape
    layer.register_buffer("prior_loc", torch.zeros_like(layer.weight[..., :1, :1]).detach(), persistent=False)

    def prior(owner: PyroModule) -> dist.Distribution:
        return dist.Normal(owner.prior_loc.expand(shape), scale).to_event(len(shape))

    layer.weight = PyroSample(prior)


def _operator(adjacency: SparseMatrix, propagation: str, self_loops: SelfLoops) -> SparseMatrix | None:
    if propagation == "mlp":
        return None
    if propagation == "renormalised":
        return normalize_adjacency(adjacency, "symmetric", self_loops)
    if propagation in _ORDERS:
        return scaled_laplacian(adjacency)
    averaging = normalize_adjacency(adjacency, "symmetric", "none")
    if propagation == "first_order_term":
        return averaging
    nodes = torch.arange(adjacency.shape[0], device=adjacency.device)
    places = torch.cat([stored_rows(averaging), nodes]), torch.cat([averaging.col, nodes])
    values = torch.cat([averaging.values, averaging.values.new_ones(len(nodes))])
    return SparseMatrix.from_coo(*places, values, adjacency.shape, symmetric=True)
