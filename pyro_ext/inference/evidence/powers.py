r"""The evidence by way of power posteriors, :math:`p_\beta \propto p(D \mid x)^\beta \, p(x)`.

References:
    | Improving marginal likelihood estimation for Bayesian phylogenetic model selection (Xie et al., 2011)
    | https://doi.org/10.1093/sysbio/syq085
    | Marginal likelihood estimation via power posteriors (Friel & Pettitt, 2008)
    | https://doi.org/10.1111/j.1467-9868.2007.00650.x
    | Improving power posterior estimation of statistical evidence (Friel, Hurn & Wyse, 2014), the modified path
    | https://arxiv.org/abs/1209.3198
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.posterior import temper
from pyro_ext.inference.evidence.problem import Densities, Problem
from pyro_ext.inference.evidence.settings import EvidenceSettings
from pyro_ext.inference.evidence.variational import MeanField
from pyro_ext.inference.evidence.weights import chain_ess, checked_weights, log_mean_exp

__all__ = ["PowerDraws", "between", "draw_powers", "modified_path_sampling", "path_sampling", "stepping_stone"]


@dataclass(frozen=True)
class PowerDraws:
    """Log-ratios between the two ends of a path, at draws from each of K + 1 laws on it.

    Args:
        powers: 0 to 1, ``(K + 1,)``.
        log_ratio: the log-density of the upper end less that of the lower, ``(N, K + 1, C)``.
        diagnostics: figures of the chains.
    """

    powers: Tensor
    log_ratio: Tensor
    diagnostics: dict[str, Any]

    def check(self) -> None:
        """Raise ValueError unless all ratios but those at power 0 are finite."""
        checked_weights(self.log_ratio)
        if (self.log_ratio[:, 1:] == -torch.inf).any():
            raise ValueError("the likelihood is zero at a draw of positive power")


def between(law: MeanField, powers: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations of normal laws between prior and posterior, ``(K, D)`` each.

    Args:
        law: normal approximations of both.
        powers: of the likelihood, ``(K,)``.
    """
    upper, lower = powers[:, None] / law.scale.square(), (1 - powers[:, None]) / law.prior_scale.square()
    precision = upper + lower
    return (upper * law.loc + lower * law.prior_loc) / precision, precision.rsqrt()


def draw_powers(
    problem: Problem, law: MeanField, settings: EvidenceSettings, advance: Callable[[int], object] | None = None
) -> PowerDraws:
    """Draw from all power posteriors at once; at power 0, independently from the prior."""
    powers = law.loc.new_tensor(settings.likelihood_powers())
    beta = powers[1:]
    loc, scale = between(law, beta)
    chains, dim = settings.num_chains, problem.dim
    start = loc[:, None] + scale[:, None] * torch.randn(len(beta), chains, dim, dtype=loc.dtype, device=loc.device)
    num_draws = -(-settings.num_power // chains)

    def combine(d: Densities, _: Tensor, group: Tensor) -> Tensor:
        return beta[group] * d.log_likelihood + d.log_prior + d.log_jacobian

    found = temper(problem, start, scale, combine, settings, num_draws, advance)
    prior = problem.at_values(problem.prior_draws(num_draws * chains)).log_likelihood.reshape(num_draws, 1, chains)
    ratio = torch.cat([prior, found.extras[..., 0]], 1)
    return PowerDraws(powers, ratio, chain_figures(ratio, found.acceptance, found.divergences))


def stepping_stone(draws: PowerDraws) -> EvidenceEstimate:
    r"""Return :math:`\sum_k \log E_{\beta_{k-1}}[p(D \mid x)^{\beta_k - \beta_{k-1}}]`."""
    draws.check()
    log_weights = draws.powers.diff()[:, None] * draws.log_ratio[:, :-1]
    steps = log_mean_exp(log_weights, (0, 2))
    relative = (log_weights - steps[:, None]).exp()
    variance = relative.var((0, 2)) / chain_ess(relative)
    worst = (relative.sum((0, 2)).square() / relative.square().sum((0, 2))).min()
    figures = {"weight_ess": worst.item(), "powers": draws.powers.tolist(), "steps": steps.tolist()}
    return EvidenceEstimate(steps.sum().item(), variance.sum().sqrt().item(), {**draws.diagnostics, **figures})


def path_sampling(draws: PowerDraws) -> EvidenceEstimate:
    r"""Return :math:`\int_0^1 E_\beta[\log p(D \mid x)] \, d\beta` by the trapezoid rule.

    The integrand rises, so that rectangles from the left and from the right bracket it; both are among the
    diagnostics. The standard error does not include the error of the rule.
    """
    return _path(draws, modified=False)


def modified_path_sampling(draws: PowerDraws) -> EvidenceEstimate:
    r"""Return the trapezoid rule corrected by its second term.

    .. math::  - \sum_k \frac{(\beta_k - \beta_{k-1})^2}{12}
        \left( \mathrm{Var}_{\beta_k}[\log L] - \mathrm{Var}_{\beta_{k-1}}[\log L] \right)
    """
    return _path(draws, modified=True)


def _path(draws: PowerDraws, modified: bool) -> EvidenceEstimate:
    draws.check()
    if not draws.log_ratio.isfinite().all():
        raise ValueError("path sampling needs a positive likelihood all over the prior: use stepping_stone")
    width = draws.powers.diff()
    mean, variance = draws.log_ratio.mean((0, 2)), draws.log_ratio.var((0, 2))
    edge = width.new_zeros(1)
    linear = (torch.cat([edge, width]) + torch.cat([width, edge])) / 2
    square = (torch.cat([width, edge]).square() - torch.cat([edge, width]).square()) / 12 * modified
    value = linear @ mean + square @ variance
    # What each draw contributes, to first order, through mean and variance of its power.
    centred = draws.log_ratio - mean[:, None]
    influence = linear[:, None] * centred + square[:, None] * (centred.square() - variance[:, None])
    error = (influence.var((0, 2)) / chain_ess(influence)).sum().sqrt()
    figures = {
        **draws.diagnostics,
        "means": mean.tolist(),
        "lower": (width @ mean[:-1]).item(),
        "upper": (width @ mean[1:]).item(),
    }
    return EvidenceEstimate(value.item(), error.item(), {**figures, "powers": draws.powers.tolist()})


def chain_figures(ratio: Tensor, acceptance: Tensor, divergences: Tensor) -> dict[str, Any]:
    """Return the diagnostics of chains at all powers but 0: the worst of each."""
    return {
        "ess": chain_ess(ratio[:, 1:]).min().item(),
        "acceptance": acceptance.min().item(),
        "divergences": int(divergences.sum()),
        "num_powers": ratio.shape[1],
    }
