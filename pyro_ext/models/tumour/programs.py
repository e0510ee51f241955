"""Inference compilation: the model is a simulator, the guide a network that is trained on what it draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ext.datasets import TumourSimulator
from pyro_ext.utils.checks import positive_int

__all__ = ["LabelGuide", "MatrixGivenLabel", "SimulatedLabels", "compilation_loss"]


class MatrixGivenLabel(TorchDistribution):
    """What a simulator draws for a label. It has no density that could be computed.

    Args:
        simulator: the simulator.
        labels: zeros and ones, ``(B,)``.

    Example:
        >>> MatrixGivenLabel(TumourSimulator(cells=5, mutations=4), torch.tensor([0.0, 1.0])).sample().shape
        torch.Size([2, 5, 4])
    """

    arg_constraints: Mapping[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.integer_interval(0, 3), 2)

    def __init__(self, simulator: TumourSimulator, labels: Tensor) -> None:
        self.simulator, self.labels = simulator, labels
        super().__init__(labels.shape, torch.Size([simulator.cells, simulator.mutations]), validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> MatrixGivenLabel:
        """Return the distribution of matrices for labels that are repeated to a larger shape."""
        return MatrixGivenLabel(self.simulator, self.labels.expand(batch_shape))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - as in torch
        """Draw matrices, int8, ``sample_shape + batch_shape + (n, m)``."""
        labels = self.labels.expand(*sample_shape, *self.batch_shape)
        drawn = self.simulator.given(labels.reshape(-1))
        return drawn.reshape(*labels.shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse: the density sums over all genealogies.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a simulator of tumours has no density; train a guide on what it draws")


class SimulatedLabels(PyroModule):
    r"""The model: labels, each with probability one half, and what the simulator draws for them.

    .. math::  y_b \sim \mathrm{Bernoulli}(\tfrac12), \qquad A'_b \sim \mathrm{simulator}(y_b)

    It is made for :class:`pyro.infer.CSIS`, which draws from it anew in each step.

    Args:
        simulator: draws observed matrices, with ``labels="noise"`` or ``"branching"``.
        number: the number B of labels of a trace.

    Raises:
        ValueError: if the simulator has no labels, or ``number`` is not positive.

    Example:
        >>> model = SimulatedLabels(TumourSimulator(), number=3)
        >>> trace = pyro.poutine.trace(model).get_trace(observations={"matrix": torch.zeros(3, 10, 10)})
        >>> trace.nodes["label"]["value"].shape
        torch.Size([3])
    """

    def __init__(self, simulator: TumourSimulator, number: int = 100) -> None:
        super().__init__()
        if simulator.labels == "matrix":
            raise ValueError("simulator must have labels 'noise' or 'branching', got 'matrix'")
        self.simulator = simulator
        self.number = positive_int("number", number)
        self.register_buffer("chance", torch.tensor(0.5))

    def forward(self, observations: Mapping[str, Tensor] | None = None) -> Tensor:
        """Draw labels and matrices; the matrices are observed where ``observations`` has them.

        Args:
            observations: ``{"matrix": ...}``, int8 ``(B, n, m)``.

        Returns:
            The labels, ``(B,)``.
        """
        with pyro.plate("data", self.number, dim=-1):
            label: Tensor = pyro.sample("label", dist.Bernoulli(self.chance))
            matrix = None if observations is None else observations["matrix"]
            pyro.sample("matrix", MatrixGivenLabel(self.simulator, label), obs=matrix)
        return label


class LabelGuide(PyroModule):
    r"""The guide: labels given matrices, :math:`q(y_b \mid A'_b) = \mathrm{Bernoulli}(\mathrm{logit} = f(A'_b))`.

    Args:
        network: f, from matrices ``(B, n, m)`` to log-odds ``(B,)``.

    Example:
        >>> from pyro_ext.models.tumour.networks import PairNetwork
        >>> LabelGuide(PairNetwork())({"matrix": torch.zeros(3, 10, 10)}).shape
        torch.Size([3])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Draw labels of observed matrices.

        Args:
            observations: ``{"matrix": ...}``, ``(B, n, m)``.

        Returns:
            The labels, ``(B,)``.
        """
        x = observations["matrix"]
        with pyro.plate("data", len(x), dim=-1):
            label: Tensor = pyro.sample("label", dist.Bernoulli(logits=self.network(x)))
        return label


def compilation_loss(x: Tensor, y: Tensor, index: Tensor | None, guide: LabelGuide) -> Tensor:
    r"""Return the loss of inference compilation on labels and matrices that were drawn before, per label.

    .. math::  -\mathbb{E}_{p(y, A')} \log q(y \mid A')

    This is what :class:`pyro.infer.CSIS` minimises with new draws in each step; the posterior minimises it.

    Args:
        x: matrices, ``(B, n, m)``.
        y: labels 0 and 1, ``(B,)``.
        index: the places of the batch in the data set, of no use here.
        guide: called with ``{"matrix": x}``; has the site ``label``.

    References:
        | Inference compilation and universal probabilistic programming (Le et al., 2017)
        | https://arxiv.org/abs/1610.09900

    Example:
        >>> from pyro_ext.models.tumour.networks import PairNetwork
        >>> compilation_loss(torch.zeros(2, 5, 4), torch.tensor([0, 1]), None, LabelGuide(PairNetwork())).shape
        torch.Size([])
    """
    labels = y.to(next(guide.parameters()).dtype)
    trace = poutine.trace(poutine.condition(guide, {"label": labels})).get_trace({"matrix": x})
    log_prob: Tensor = trace.log_prob_sum()
    return -log_prob / len(x)
