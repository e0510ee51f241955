"""The score-function estimator of one sample, with learned baselines that depend on the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_ext.inference.elbo import DifferentiableELBO, ModelOrGuide, checked_loss, value_with_gradient_of
from pyro_ext.models.toolkit import RunningMoments, perceptron
from pyro_ext.utils.checks import positive_int

__all__ = ["LearnedBaselineELBO"]


class LearnedBaselineELBO(DifferentiableELBO, Trace_ELBO):
    r"""The ELBO of one sample by the score function, with a learned baseline for each site and data point.

    The gradient for the site h of the guide is

    .. math::  (c_h - b_h) \nabla \log q(h), \qquad b_h = \mu_h + \sigma_h \, g_h(x, \mathrm{pa}(h)),

    with the cost c of the terms of the bound that h influences, running mean and standard deviation of c, and a
    network g of one layer of tanh units that is fitted to the cost by least squares in the same step. It sees the
    data and the values of the site of the guide before h, so the estimate stays unbiased. Before the first step the
    mean is that of the other data points of the batch. Parameters and running moments belong to ``state_dict``.

    It is for the models of this package: all sites in one data plate, the first argument of model and guide a batch of
    rows, and each site of the guide dependent on the one before it alone. Layers of binary units have costs of their
    own, so each has its own network, which also sees the layer before; a single network that sees the data alone, for
    guides with reparameterised sites besides discrete ones, is ``toolkit.baseline.LearnedBaselineObjective``. What both
    measure costs from, the running moments, is the same.

    Args:
        parents: name of a site of the model -> names of the latent sites that its distribution depends on.
        sizes: name of a site of the guide, in their order -> the number of entries of its value.
        centre: what is subtracted from the rows before networks see them, ``(features,)``.
        shared: whether the latent sites have the same distributions in model and guide, with the same parameters; the
            gradients of their terms then cancel, and are both left in.
        hidden: the number of tanh units of each baseline.
        decay: the weight of the past in the running moments, in [0, 1).

    Raises:
        ValueError: if a number is out of range.

    References:
        | Neural variational inference and learning in belief networks (Mnih and Gregor, 2014), section 2.3
        | https://arxiv.org/abs/1402.0030
        | MuProp: unbiased backpropagation for stochastic neural networks (Gu et al., 2016)
        | https://arxiv.org/abs/1511.05176

    Example:
        >>> from pyro_ext.models.structured_output import DensityGuide, DensityModel, Units
        >>> units = Units(20)
        >>> model, guide = DensityModel(4, 64, units), DensityGuide(4, torch.zeros(64), units)
        >>> elbo = LearnedBaselineELBO(model.parents, {"h1": 20}, torch.zeros(64))
        >>> elbo.loss(model, guide, torch.zeros(4, 64)) > 0, int(elbo.moments.num_steps)
        (True, 0)
    """

    _get_trace: Callable[..., tuple[Any, Any]]
    centre: Tensor

    def __init__(
        self,
        parents: Mapping[str, Sequence[str]],
        sizes: Mapping[str, int],
        centre: Tensor,
        shared: bool = False,
        hidden: int = 100,
        decay: float = 0.9,
    ) -> None:
        super().__init__(max_plate_nesting=1)
        self.parents = {name: frozenset(above) for name, above in parents.items()}
        self.sites = tuple(sizes)
        self.shared = shared
        positive_int("hidden", hidden)
        before = (0, *sizes.values())
        self.networks = nn.ModuleList(
            perceptron(len(centre) + size, hidden, 1, activation=nn.Tanh)
            for size, _ in zip(before, sizes, strict=False)
        )
        self.register_buffer("centre", centre.detach().clone())
        self.moments = RunningMoments(centre.new_zeros(len(sizes)), decay)

    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative ELBO; its gradient is that of the estimator and of the baselines' squared errors."""
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        log_p = _log_probs(model_trace)
        log_q = _log_probs(guide_trace)
        costs = torch.stack([self._cost(log_p, log_q, at) for at in range(len(self.sites))])  # (sites, B)
        scale = len(costs[0]) / self._num_data(model_trace, len(costs[0]))
        costs = costs.detach() * scale
        mean, deviation = self._moments(costs)
        outputs = self._outputs(args[0], guide_trace)
        residuals = (costs - mean) / deviation - outputs
        signals = residuals.detach() * deviation / scale
        score = (signals * torch.stack([log_q[name] for name in self.sites])).sum()
        of_model = torch.stack([term.sum() for term in log_p.values()]).sum()
        value = of_model - torch.stack([term.sum() for term in log_q.values()]).sum()
        surrogate = score + (value if self.shared else of_model) - residuals.square().sum()
        loss = value_with_gradient_of(-value, -surrogate)
        self.moments.note(costs, loss)
        return checked_loss(loss, [(model_trace, guide_trace)])

    def after_step(self) -> None:
        """Update the running moments of the costs."""
        self.moments.after_step()

    def _cost(self, log_p: Mapping[str, Tensor], log_q: Mapping[str, Tensor], at: int) -> Tensor:
        """Return the terms of the bound that the site ``at`` influences, ``(B,)``."""
        later = {*self.sites[at:]}
        terms = [value for name, value in log_p.items() if name in later or self.parents.get(name, later) & later]
        return torch.stack([*terms, *(-log_q[name] for name in later)]).sum(0)

    def _moments(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the costs, shapes that broadcast with ``(sites, B)``."""
        of_others = (costs.sum(1, keepdim=True) - costs) / max(1, costs.shape[1] - 1)
        return torch.where(self.moments.started, self.moments.mean[:, None], of_others), self.moments.deviation[:, None]

    def _outputs(self, x: Tensor, guide_trace: Any) -> Tensor:
        """Return what the networks say of each site and data point, ``(sites, B)``."""
        inputs, outputs = x - self.centre, []
        before = inputs[:, :0]
        for name, network in zip(self.sites, self.networks, strict=True):
            outputs.append(network(torch.cat([inputs, before], -1)).squeeze(-1))
            before = guide_trace.nodes[name]["value"].detach().flatten(1).to(inputs)
        return torch.stack(outputs)

    @staticmethod
    def _num_data(model_trace: Any, batch_size: int) -> float:
        """Return the number of data points that the plate stands for."""
        site = next(site for site in model_trace.nodes.values() if site["type"] == "sample")
        return float(site["scale"]) * batch_size


def _log_probs(trace: Any) -> dict[str, Tensor]:
    """Return name -> scaled log-probability of the sites with a density, without those of plates."""
    return {name: site["log_prob"] for name, site in trace.nodes.items() if site["type"] == "sample"}
