r"""Generalised stepping stone: the path runs from a law fitted to the posterior, not from the prior.

The densities on it are :math:`p_\beta \propto (p(D, x))^\beta g(x)^{1 - \beta}`. The closer g, the fewer powers needed.

References:
    | Choosing among partition models in Bayesian phylogenetics (Fan et al., 2011)
    | https://doi.org/10.1093/molbev/msq224
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Gamma, Normal

from pyro_ext.inference.evidence.posterior import Posterior, temper
from pyro_ext.inference.evidence.powers import PowerDraws, chain_figures
from pyro_ext.inference.evidence.problem import Densities, Problem
from pyro_ext.inference.evidence.settings import EvidenceSettings

__all__ = ["Reference", "draw_reference_path", "fit_reference"]


class Reference(NamedTuple):
    """A law of independent unconstrained coordinates: the logarithms of Gamma variables, and normal ones.

    Attributes:
        positive: which coordinates are logarithms, bool ``(D,)``.
        shape: of the Gamma laws, ``(D,)``; 1 at the others.
        rate: of the Gamma laws, ``(D,)``; 1 at the others.
        loc: means of z in the posterior, ``(D,)``.
        scale: standard deviations of z in the posterior, ``(D,)``.
    """

    positive: Tensor
    shape: Tensor
    rate: Tensor
    loc: Tensor
    scale: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of unconstrained vectors ``(P, D)``."""
        # A Gamma law at exp(z), times its Jacobian; at other coordinates exp must not overflow.
        x = torch.where(self.positive, z, 0.0).exp()
        constant = self.shape * self.rate.log() - self.shape.lgamma()
        gamma = constant + self.shape * z - self.rate * x
        normal = Normal(self.loc, self.scale, validate_args=False).log_prob(z)
        return torch.where(self.positive, gamma, normal).sum(-1)

    def sample(self, size: int) -> Tensor:
        """Draw unconstrained vectors, ``(size, D)``."""
        gamma = Gamma(self.shape, self.rate, validate_args=False).sample((size,)).log()
        return torch.where(self.positive, gamma, Normal(self.loc, self.scale).sample((size,)))


def fit_reference(problem: Problem, posterior: Posterior) -> Reference:
    """Fit the reference by the moments of the posterior: those of x where it is positive, of z elsewhere."""
    z = posterior.z.flatten(0, 1)
    positive = problem.coordinates.positive().to(z.device)
    x = torch.where(positive, z, 0.0).exp()
    mean, variance = x.mean(0), x.var(0).clamp_min(torch.finfo(z.dtype).tiny)
    shape = torch.where(positive, mean.square() / variance, torch.ones_like(mean))
    rate = torch.where(positive, mean / variance, torch.ones_like(mean))
    return Reference(positive, shape, rate, z.mean(0), z.std(0))


def draw_reference_path(
    problem: Problem,
    posterior: Posterior,
    settings: EvidenceSettings,
    advance: Callable[[int], object] | None = None,
) -> PowerDraws:
    """Draw from all laws between reference and posterior at once; at power 0, independently from the reference."""
    reference = fit_reference(problem, posterior)
    powers = reference.loc.new_tensor(settings.posterior_powers())
    beta, chains = powers[1:], settings.num_chains
    flat = posterior.z.flatten(0, 1)
    rows = torch.randint(len(flat), (len(beta), chains), device=flat.device)
    scale = reference.scale.expand(len(beta), -1)
    num_draws = -(-settings.num_power // chains)

    def combine(d: Densities, z: Tensor, group: Tensor) -> Tensor:
        return beta[group] * d.log_joint + (1 - beta[group]) * reference.log_prob(z)

    found = temper(problem, flat[rows], scale, combine, settings, num_draws, advance)
    upper = found.extras.sum(-1) - reference.log_prob(found.z.flatten(0, -2)).reshape(found.extras.shape[:-1])
    start = reference.sample(num_draws * chains)
    lower = (problem.at(start).log_joint - reference.log_prob(start)).reshape(num_draws, 1, chains)
    ratio = torch.cat([lower, upper], 1)
    figures = chain_figures(ratio, found.acceptance, found.divergences)
    return PowerDraws(powers, ratio, {**figures, "posterior_ess": posterior.diagnostics["ess"]})
