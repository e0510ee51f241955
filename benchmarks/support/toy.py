r"""Three Bernoulli variables that share one logit, the toy of Liu et al. (2019) and Kool et al. (2020).

The cost is :math:`f(b) = \sum_i (b_i - p_i)^2` with p = (0.6, 0.51, 0.48); the eight joint values of b are one site.
The replicates form a plate, and each has a logit of its own, so that one step gives independent gradients.

References:
    | Rao-Blackwellized stochastic gradients for discrete distributions (Liu et al., 2019), section 5.1
    | https://arxiv.org/abs/1810.04777
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO
from torch import Tensor

from support.gradients import Step

__all__ = ["P", "replicated_logit", "step", "true_gradient"]

P = torch.tensor([0.6, 0.51, 0.48])


def true_gradient(eta: float) -> float:
    """Return the derivative of E f in the logit, a sum of three closed forms since f is a sum over variables."""
    q = torch.tensor(eta, dtype=torch.float64).sigmoid()
    return float(((1 - 2 * P.double()) * q * (1 - q)).sum())


def replicated_logit(eta: float, replicates: int) -> torch.nn.Parameter:
    """Return one logit per replicate, all equal, shape ``(replicates,)``."""
    return torch.nn.Parameter(torch.full((replicates,), eta))


def step(logit: torch.nn.Parameter, elbo: ELBO) -> Step:
    """Return a step that leaves the gradient of every replicate's cost in ``logit.grad``."""

    def sites(logits: Tensor) -> Tensor:
        return pyro.sample("b", dist.Bernoulli(logits=logits.unsqueeze(-1).expand(-1, 3)).to_event(1))

    def model() -> None:
        with pyro.plate("replicates", len(logit)):
            b = sites(logit.detach())  # the distribution of the guide: the two log-probabilities cancel
            pyro.factor("cost", -(b - P).square().sum(-1))

    def guide() -> None:
        with pyro.plate("replicates", len(logit)):
            sites(logit)

    def one_step() -> None:
        logit.grad = None
        elbo.differentiable_loss(model, guide).backward()

    return one_step
