"""Probabilities of classes averaged over a posterior; metrics and plots of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets import LabelledGraph
from pyro_ext.inference import local_params
from pyro_ext.models.gcn.model import GCN
from pyro_ext.ops.calibration import expected_calibration_error
from pyro_ext.ops.sparse import stored_rows
from pyro_ext.plotting import confusion_matrix, draw_graph, embedding, reliability_diagram
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.random_state import isolated_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Evaluation", "class_probabilities"]

_LARGEST_DRAWN = 200  # nodes
_TINY = 1e-30


@torch.no_grad()
def class_probabilities(
    gcn: GCN, guide: Callable[..., Any], num_samples: int = 1, dropout: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Return the probabilities of all nodes' classes, and the penalty that the prior puts on the weights.

    .. math::  p(y_n = c) = \frac1S \sum_s \mathrm{softmax}(f(W^{(s)})_n)_c, \qquad W^{(s)} \sim q

    Args:
        gcn: the network.
        guide: the approximate posterior q of its weights; it is called without arguments.
        num_samples: the number S of draws.
        dropout: whether units are dropped as in training, in each draw anew (Monte Carlo dropout).

    Returns:
        Probabilities ``(N, C)``, and the mean of :math:`\sum_l \lVert W_l \rVert^2 / 2 s_l^2` over the draws.

    Raises:
        ValueError: if ``num_samples`` is not a positive integer, or the guide is an autoguide that has never been
            called and does not know yet which nodes have labels.

    References:
        | Dropout as a Bayesian approximation (Gal and Ghahramani, 2016), https://arxiv.org/abs/1506.02142

    Example:
        >>> from pyro_ext.datasets import karate_club
        >>> data = karate_club()
        >>> gcn = GCN(data.adjacency, data.features, data.num_classes)
        >>> probs, penalty = class_probabilities(gcn, lambda: {}, 1)
        >>> probs.shape, penalty
        (torch.Size([34, 4]), tensor(0.))
    """
    positive_int("num_samples", num_samples)
    if isinstance(guide, AutoGuide) and guide.prototype_trace is None:
        raise ValueError("guide has no parameters yet: train it, or call it once with labels and nodes")
    was_training = gcn.training
    gcn.train(dropout)
    try:
        draws = [_one_draw(gcn, guide) for _ in range(num_samples)]
    finally:
        gcn.train(was_training)
    probs, penalties = zip(*draws, strict=True)
    return torch.stack(probs).mean(0), torch.stack(penalties).mean()


def _one_draw(gcn: GCN, guide: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    guide_trace = pyro.poutine.trace(guide).get_trace()
    trace = pyro.poutine.trace(pyro.poutine.replay(gcn.logits, trace=guide_trace)).get_trace()
    probs = trace.nodes["_RETURN"]["value"].softmax(-1)
    penalty = probs.new_zeros(())
    for at, scale in enumerate(gcn.prior_scales):
        if math.isfinite(scale):
            penalty = penalty + trace.nodes[f"layers.{at}.weight"]["value"].square().sum() / (2 * scale**2)
    return probs, penalty


class Evaluation:
    """Metrics and plots of a network and an approximate posterior of its weights.

    Args:
        gcn: the network.
        guide: the approximate posterior.
        data: the graph.
        num_samples: the number of draws over which probabilities are averaged.
        dropout: whether units are dropped in each of them.
        seed: the seed of the draws, which are the same whenever parameters are.

    Raises:
        ValueError: if ``num_samples`` is not a positive integer.
    """

    def __init__(
        self,
        gcn: GCN,
        guide: Callable[..., Any],
        data: LabelledGraph,
        num_samples: int = 1,
        dropout: bool = False,
        seed: int = 0,
    ) -> None:
        self.gcn = gcn
        self.guide = guide
        self.data = data
        self.num_samples = positive_int("evaluation_samples", num_samples)
        self.dropout = dropout
        self.seed = seed

    def probabilities(self) -> tuple[Tensor, Tensor]:
        """Return what :func:`class_probabilities` does."""
        with isolated_random_state(self.seed, self.gcn.device), local_params():
            return class_probabilities(self.gcn, self._weights, self.num_samples, self.dropout)

    def _weights(self) -> Any:
        """Draw weights; a guide that has not been called yet makes its parameters for the training nodes."""
        return self.guide(*(part.to(self.gcn.device) for part in self.data.train[0]))

    def metrics(self, loader: Iterable[Any]) -> dict[str, float]:
        """Return accuracy, negative log-likelihood and calibration error at the nodes of a loader.

        ``accuracy`` is the share of right classes, ``nll`` the mean negative log-probability of the right class in
        nats, ``ece`` the expected calibration error with 15 bins, ``confidence`` the mean probability of the predicted
        class; ``penalised_nll`` adds the prior's penalty on the weights per training node to ``nll``, which is the loss
        that the published program stops by.

        Args:
            loader: batches of labels and nodes.

        Raises:
            ValueError: if the loader is empty.
        """
        probs, penalty = self.probabilities()
        batches = [(labels.to(probs.device), nodes.to(probs.device)) for labels, nodes in loader]
        if not batches:
            raise ValueError("loader must hold at least one batch of nodes, got none")
        labels, nodes = (torch.cat(parts) for parts in zip(*batches, strict=True))
        own = probs[nodes].to(torch.promote_types(probs.dtype, torch.float32))
        nll = F.nll_loss(own.clamp(min=_TINY).log(), labels)
        confidence, predicted = own.max(-1)
        values = {
            "accuracy": (predicted == labels).to(own.dtype).mean(),
            "nll": nll,
            "ece": expected_calibration_error(own, labels),
            "confidence": confidence.mean(),
            "penalised_nll": nll + penalty / (self.gcn.size or len(nodes)),
        }
        return {name: float(value) for name, value in values.items()}

    def plots(self) -> dict[str, Callable[..., Axes]]:
        """Return named plots; that of the whole graph only if it has at most 200 nodes."""
        plots = {"embedding": self.plot_embedding, "reliability": self.plot_reliability}
        plots["confusion"] = self.plot_confusion
        if self.data.adjacency.shape[0] <= _LARGEST_DRAWN:
            plots["graph"] = self.plot_graph
        return plots

    def plot_embedding(self, ax: Axes | None = None) -> Axes:
        """Plot what the last layer sees of all nodes, with colours for their true classes."""
        training, seed = self.gcn.training, self.seed
        self.gcn.eval()
        try:
            with torch.no_grad(), local_params(), isolated_random_state(seed, self.gcn.device):
                guide_trace = pyro.poutine.trace(self._weights).get_trace()
                h = pyro.poutine.replay(self.gcn.embeddings, trace=guide_trace)()
        finally:
            self.gcn.train(training)
        points = h if isinstance(h, Tensor) else self.probabilities()[0]
        return embedding(points, self.data.labels, ax)

    def plot_reliability(self, ax: Axes | None = None) -> Axes:
        """Plot accuracy against confidence at held-out nodes."""
        probs, labels, _ = self._held_out()
        return reliability_diagram(probs, labels, ax)

    def plot_confusion(self, ax: Axes | None = None) -> Axes:
        """Plot which classes of held-out nodes are taken for which."""
        probs, labels, _ = self._held_out()
        return confusion_matrix(probs.argmax(-1), labels, ax)

    def plot_graph(self, ax: Axes | None = None) -> Axes:
        """Draw the graph with predicted classes; training nodes are squares, wrong classes have thick rims."""
        predicted = self.probabilities()[0].argmax(-1).cpu()
        adjacency, labels = self.data.adjacency, self.data.labels
        edges = torch.stack([stored_rows(adjacency), adjacency.col])
        wrong = ((labels >= 0) & (predicted != labels)).nonzero()[:, 0]
        nodes, names = self.data.train[0][1], self.data.node_names
        title = "predicted classes; marked: training nodes"
        return draw_graph(edges, predicted, ax, marked=nodes, wrong=wrong, names=names, title=title)

    def _held_out(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities, labels and numbers of the test nodes, or the other ones that are held out."""
        data = self.data.test or self.data.valid or self.data.train
        labels, nodes = data[0]
        return self.probabilities()[0].cpu()[nodes], labels, nodes


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """Return a warning if probabilities are far from how often predictions are right."""
    error = metrics.get("ece", 0.0)
    if error < 0.15:
        return []
    kind = "less" if metrics["confidence"] < metrics["accuracy"] else "more"
    return [
        f"predictions are right in {metrics['accuracy']:.0%} of the cases and claim {metrics['confidence']:.0%}: they "
        f"are {kind} certain than they should be; the likelihood power and the weight decay govern that"
    ]
