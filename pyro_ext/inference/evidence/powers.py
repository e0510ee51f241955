r"""Estimates from draws of the distributions on a path to the posterior.

The path starts at the prior, :math:`p_\beta \propto p(D \mid x)^\beta \, p(x)` (power posteriors), or, for generalised
stepping stone, at a reference distribution g fitted to the posterior,
:math:`p_\beta \propto p(D, x)^\beta g(x)^{1 - \beta}`. The closer g is to the posterior, the fewer powers are needed.

References:
    | Improving marginal likelihood estimation for Bayesian phylogenetic model selection (Xie et al., 2011)
    | https://doi.org/10.1093/sysbio/syq085
    | Marginal likelihood estimation via power posteriors (Friel & Pettitt, 2008)
    | https://doi.org/10.1111/j.1467-9868.2007.00650.x
    | Improving power posterior estimation of statistical evidence (Friel, Hurn & Wyse, 2014), the modified path
    | https://arxiv.org/abs/1209.3198
    | Choosing among partition models in Bayesian phylogenetics (Fan et al., 2011), the generalised stepping stone
    | https://doi.org/10.1093/molbev/msq224
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Gamma, Normal

from pyro_ext.inference.evidence.draws import EvidenceDraws
from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.hmc import Chains
from pyro_ext.inference.evidence.posterior import Posterior, draw_tempered
from pyro_ext.inference.evidence.prior import PriorSample, feasible_starts
from pyro_ext.inference.evidence.problem import Densities, Problem
from pyro_ext.inference.evidence.settings import EvidenceSettings
from pyro_ext.inference.evidence.variational import MeanField
from pyro_ext.inference.evidence.weights import chain_ess, check_weights, log_mean_exp

__all__ = [
    "NOT_POSITIVE",
    "PowerDraws",
    "draw_powers",
    "draw_reference_path",
    "modified_path_sampling",
    "path_sampling",
    "stepping_stone",
]


NOT_POSITIVE = (
    "path sampling needs a positive likelihood all over the prior, since it integrates its logarithm: "
    "use stepping_stone"
)


@dataclass(frozen=True)
class PowerDraws:
    """Draws from each of K + 1 distributions on a path, by the log-ratio of the densities at its two ends.

    Args:
        powers: the powers, increasing from 0 to 1, ``(K + 1,)``.
        log_ratio: the log-density at the upper end of the path minus that at the lower end, for N draws of each of C
            chains at each power, ``(N, K + 1, C)``.
        diagnostics: diagnostics of the chains by name.
        posterior: the draws at power 1, None where they are not kept.
    """

    powers: Tensor
    log_ratio: Tensor
    diagnostics: dict[str, Any]
    posterior: EvidenceDraws | None = None

    def check(self) -> None:
        """Raise a ValueError if a ratio is not finite; at power 0 it may be zero."""
        check_weights(self.log_ratio)
        if (self.log_ratio[:, 1:] == -torch.inf).any():
            raise ValueError("the likelihood is zero at a draw of positive power")


def draw_powers(
    problem: Problem,
    prior: PriorSample,
    approximation: MeanField,
    settings: EvidenceSettings,
    advance: Callable[[int], object] | None = None,
) -> PowerDraws:
    """Draw from all power posteriors at once; at power 0, draw independently from the prior."""
    powers = approximation.loc.new_tensor(settings.likelihood_powers())
    beta = powers[1:]
    loc, scale = _moments_between(approximation, beta)
    chains = settings.num_chains
    start = feasible_starts(problem, prior, loc, scale, beta[:, None].expand(-1, chains))
    num_draws = -(-settings.num_power // chains)

    def combine(d: Densities, _: Tensor, group: Tensor) -> Tensor:
        return beta[group] * d.log_likelihood + d.log_prior + d.log_jacobian

    drawn = draw_tempered(problem, start, scale, combine, settings, num_draws, advance)
    at_prior = problem.at_values(problem.prior_draws(num_draws * chains)).log_likelihood.reshape(num_draws, 1, chains)
    ratio = torch.cat([at_prior, drawn.extras[..., 0]], 1)
    return PowerDraws(powers, ratio, _chain_diagnostics(ratio, drawn), _at_power_1(problem, drawn))


def draw_reference_path(
    problem: Problem,
    posterior: Posterior,
    settings: EvidenceSettings,
    advance: Callable[[int], object] | None = None,
) -> PowerDraws:
    """Draw from all distributions between reference and posterior at once; at power 0, draw from the reference."""
    reference = _Reference.fitted(problem, posterior)
    powers = reference.loc.new_tensor(settings.posterior_powers())
    beta, chains = powers[1:], settings.num_chains
    flat = posterior.z.flatten(0, 1)
    rows = torch.randint(len(flat), (len(beta), chains), device=flat.device)
    scale = reference.scale.expand(len(beta), -1)
    num_draws = -(-settings.num_power // chains)

    def combine(d: Densities, z: Tensor, group: Tensor) -> Tensor:
        return beta[group] * d.log_joint + (1 - beta[group]) * reference.log_prob(z)

    drawn = draw_tempered(problem, flat[rows], scale, combine, settings, num_draws, advance)
    upper = drawn.extras.sum(-1) - reference.log_prob(drawn.z.flatten(0, -2)).reshape(drawn.extras.shape[:-1])
    start = reference.sample(num_draws * chains)
    lower = (problem.at(start).log_joint - reference.log_prob(start)).reshape(num_draws, 1, chains)
    ratio = torch.cat([lower, upper], 1)
    diagnostics = {**_chain_diagnostics(ratio, drawn), "posterior_ess": posterior.diagnostics["ess"]}
    return PowerDraws(powers, ratio, diagnostics, _at_power_1(problem, drawn))


def stepping_stone(draws: PowerDraws) -> EvidenceEstimate:
    r"""Return :math:`\sum_k \log E_{\beta_{k-1}}[p(D \mid x)^{\beta_k - \beta_{k-1}}]`."""
    draws.check()
    log_weights = draws.powers.diff()[:, None] * draws.log_ratio[:, :-1]
    steps = log_mean_exp(log_weights, (0, 2))
    relative = (log_weights - steps[:, None]).exp()
    variance = relative.var((0, 2)) / chain_ess(relative)
    worst = (relative.sum((0, 2)).square() / relative.square().sum((0, 2))).min()
    diagnostics = {"weight_ess": worst.item(), "powers": draws.powers.tolist(), "steps": steps.tolist()}
    diagnostics = {**draws.diagnostics, **diagnostics}
    error = variance.sum().sqrt().item()
    return EvidenceEstimate(steps.sum().item(), error, diagnostics, draws=draws.posterior)


def path_sampling(draws: PowerDraws) -> EvidenceEstimate:
    r"""Return :math:`\int_0^1 E_\beta[\log p(D \mid x)] \, d\beta` by the trapezoid rule.

    The integrand is non-decreasing, so that the left and the right Riemann sum bracket the integral; both are among the
    diagnostics. The standard error does not include the error of the trapezoid rule.
    """
    return _path(draws, modified=False)


def modified_path_sampling(draws: PowerDraws) -> EvidenceEstimate:
    r"""Return the trapezoid rule with a correction by the second derivative of the integral.

    .. math::  - \sum_k \frac{(\beta_k - \beta_{k-1})^2}{12}
        \left( \mathrm{Var}_{\beta_k}[\log L] - \mathrm{Var}_{\beta_{k-1}}[\log L] \right)
    """
    return _path(draws, modified=True)


def _path(draws: PowerDraws, modified: bool) -> EvidenceEstimate:
    draws.check()
    if not draws.log_ratio.isfinite().all():
        raise ValueError(NOT_POSITIVE)
    width = draws.powers.diff()
    mean, variance = draws.log_ratio.mean((0, 2)), draws.log_ratio.var((0, 2))
    edge = width.new_zeros(1)
    linear = (torch.cat([edge, width]) + torch.cat([width, edge])) / 2
    square = (torch.cat([width, edge]).square() - torch.cat([edge, width]).square()) / 12 * modified
    value = linear @ mean + square @ variance
    # To first order, the contribution of each draw through the mean and the variance at its power.
    centred = draws.log_ratio - mean[:, None]
    influence = linear[:, None] * centred + square[:, None] * (centred.square() - variance[:, None])
    error = (influence.var((0, 2)) / chain_ess(influence)).sum().sqrt()
    diagnostics = {
        **draws.diagnostics,
        "means": mean.tolist(),
        "lower": (width @ mean[:-1]).item(),
        "upper": (width @ mean[1:]).item(),
        "powers": draws.powers.tolist(),
    }
    return EvidenceEstimate(value.item(), error.item(), diagnostics, draws=draws.posterior)


def _at_power_1(problem: Problem, drawn: Chains) -> EvidenceDraws:
    z, extras = (part[:, -1].clone() for part in (drawn.z, drawn.extras))  # without the draws at the other powers
    return EvidenceDraws.of_chains(problem, z, Densities(*extras.unbind(-1)))


def _moments_between(approximation: MeanField, powers: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations of normal distributions between prior and posterior, ``(K, D)`` each.

    Args:
        approximation: normal approximations of prior and posterior.
        powers: the powers of the likelihood, ``(K,)``.
    """
    upper = powers[:, None] / approximation.scale.square()
    lower = (1 - powers[:, None]) / approximation.prior_scale.square()
    precision = upper + lower
    return (upper * approximation.loc + lower * approximation.prior_loc) / precision, precision.rsqrt()


class _Reference(NamedTuple):
    """Independent distributions of the unconstrained coordinates: logarithms of Gamma variables, and normal ones.

    Attributes:
        positive: which coordinates are logarithms, bool ``(D,)``.
        shape: shapes of the Gamma distributions, ``(D,)``; 1 at the other coordinates.
        rate: rates of the Gamma distributions, ``(D,)``; 1 at the other coordinates.
        loc: means of z in the posterior, ``(D,)``.
        scale: standard deviations of z in the posterior, ``(D,)``.
    """

    positive: Tensor
    shape: Tensor
    rate: Tensor
    loc: Tensor
    scale: Tensor

    @classmethod
    def fitted(cls, problem: Problem, posterior: Posterior) -> _Reference:
        """Return the reference with the moments of posterior draws: of x where it is positive, of z elsewhere."""
        z = posterior.z.flatten(0, 1)
        positive = problem.coordinates.positive().to(z.device)
        x = torch.where(positive, z, 0.0).exp()
        mean, variance = x.mean(0), x.var(0).clamp_min(torch.finfo(z.dtype).tiny)
        shape = torch.where(positive, mean.square() / variance, torch.ones_like(mean))
        rate = torch.where(positive, mean / variance, torch.ones_like(mean))
        return cls(positive, shape, rate, z.mean(0), z.std(0))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of unconstrained vectors ``(P, D)``."""
        # The Gamma density at exp(z), times the Jacobian; at the other coordinates exp must not overflow.
        x = torch.where(self.positive, z, 0.0).exp()
        constant = self.shape * self.rate.log() - self.shape.lgamma()
        gamma = constant + self.shape * z - self.rate * x
        normal = Normal(self.loc, self.scale, validate_args=False).log_prob(z)
        return torch.where(self.positive, gamma, normal).sum(-1)

    def sample(self, size: int) -> Tensor:
        """Draw unconstrained vectors, ``(size, D)``."""
        gamma = Gamma(self.shape, self.rate, validate_args=False).sample((size,)).log()
        return torch.where(self.positive, gamma, Normal(self.loc, self.scale).sample((size,)))


def _chain_diagnostics(ratio: Tensor, drawn: Chains) -> dict[str, Any]:
    """Return the worst diagnostics of the chains over all powers but 0."""
    return {
        "ess": chain_ess(ratio[:, 1:]).min().item(),
        "acceptance": drawn.acceptance.min().item(),
        "divergences": int(drawn.divergences.sum()),
        "num_powers": ratio.shape[1],
    }
