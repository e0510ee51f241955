"""Means of the likelihood over posterior draws: harmonic means as estimates, means for each data unit as scores.

The harmonic means are cheap, but unusable more often than not. The scores say how well a model predicts its data; they
rank models, but estimate no evidence.

References:
    | Approximate Bayesian inference with the weighted likelihood bootstrap (Newton & Raftery, 1994)
    | https://doi.org/10.1111/j.2517-6161.1994.tb01956.x
    | A predictive approach to model selection (Geisser & Eddy, 1979)
    | https://doi.org/10.1080/01621459.1979.10481632
    | Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari et al., 2017)
    | https://arxiv.org/abs/1507.04544
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.posterior import Posterior
from pyro_ext.inference.evidence.prior import PriorSample
from pyro_ext.inference.evidence.warning import EvidenceWarning
from pyro_ext.inference.evidence.weights import chain_ess, check_weights, log_mean_exp, pareto_k

__all__ = ["cpo", "harmonic_mean", "ppd", "stabilized_harmonic_mean"]

_NO_VARIANCE = 0.5  # above this tail index the variance of 1 / L is infinite
_FEW = 100.0  # effective draws of 1 / L


def harmonic_mean(posterior: Posterior, prior: PriorSample) -> EvidenceEstimate:
    r"""Return :math:`-\log \frac1N \sum_i 1 / p(D \mid x_i) + \log A`; warn if the variance of 1 / L seems infinite.

    The posterior mean of 1 / L is A / Z, where A is the share of the prior where the likelihood is positive.

    Args:
        posterior: draws from the posterior.
        prior: draws from the prior, which give A.
    """
    likelihood = posterior.densities.log_likelihood
    check_weights(-likelihood)
    value = -log_mean_exp(-likelihood, (0, 1))
    relative = (value - likelihood).exp()
    diagnostics = _diagnostics(posterior, likelihood, relative)
    std_error = relative.std() / diagnostics["weight_ess"] ** 0.5
    return _times_share(prior, value.item(), std_error.item(), diagnostics)


def stabilized_harmonic_mean(posterior: Posterior, prior: PriorSample, delta: float) -> EvidenceEstimate:
    r"""Return the logarithm of the harmonic mean p that includes imagined prior draws, whose likelihood is set to p.

    The prior is that restricted to a positive likelihood; the share of the prior where it is so is multiplied to p.

    .. math::  \sum_i \frac{L_i - p}{\delta p + (1 - \delta) L_i} = 0

    Its variance is finite, but it has a bias that does not vanish with the number of draws. The standard error does not
    include the bias.

    Args:
        posterior: draws from the posterior.
        prior: draws from the prior.
        delta: the share of imagined prior draws, between 0 and 1.
    """
    likelihood = posterior.densities.log_likelihood
    check_weights(-likelihood)

    def terms(log_p: Tensor) -> Tensor:
        ratio = likelihood - log_p
        # Both L and p are divided by the larger of them, so that nothing overflows.
        top = ratio.clamp(max=0).exp() - (-ratio).clamp(max=0).exp()
        return top / (delta * (-ratio).clamp(max=0).exp() + (1 - delta) * ratio.clamp(max=0).exp())

    log_p = _root(lambda p: terms(p).mean(), likelihood.min(), likelihood.max())
    values = terms(log_p)
    ratio = (likelihood - log_p).exp()
    slope = (ratio / (delta + (1 - delta) * ratio).square()).mean()  # minus the derivative with respect to log p
    relative = (log_p - likelihood).exp()
    std_error = values.std() / slope / chain_ess(values).sqrt()
    return _times_share(prior, log_p.item(), std_error.item(), _diagnostics(posterior, likelihood, relative))


def cpo(posterior: Posterior, units: Tensor, weights: Tensor) -> EvidenceEstimate:
    r"""Return the sum of the logarithms of conditional predictive ordinates (leave-one-out predictive densities).

    .. math::  \sum_i w_i \log p(D_i \mid D_{-i}) \approx -\sum_i w_i \log \frac1N \sum_j \frac1{p(D_i \mid x_j)}

    Args:
        posterior: draws from the posterior.
        units: the log-likelihood of each data unit at each draw, ``(N, C, U)``.
        weights: the number of occurrences of each data unit, ``(U,)``.
    """
    return _score(posterior, -log_mean_exp(-units, (0, 1)), -units, weights)


def ppd(posterior: Posterior, units: Tensor, weights: Tensor) -> EvidenceEstimate:
    r"""Return the log posterior predictive density of the data that the posterior is conditioned on.

    .. math::  \sum_i w_i \log \frac1N \sum_j p(D_i \mid x_j)

    Args:
        posterior: draws from the posterior.
        units: the log-likelihood of each data unit at each draw, ``(N, C, U)``.
        weights: the number of occurrences of each data unit, ``(U,)``.
    """
    return _score(posterior, log_mean_exp(units, (0, 1)), units, weights)


def _score(posterior: Posterior, values: Tensor, log_terms: Tensor, weights: Tensor) -> EvidenceEstimate:
    check_weights(log_terms)
    # To first order the score is a mean over draws of a weighted sum of relative terms.
    relative = (log_terms - log_mean_exp(log_terms, (0, 1))).exp()
    series = relative @ weights
    error = (series.std() / chain_ess(series).sqrt()).item()
    diagnostics = {**posterior.diagnostics, "num_units": weights.sum().item(), "monte_carlo_error": error}
    return EvidenceEstimate((values @ weights).item(), math.nan, diagnostics, is_score=True)


def _times_share(prior: PriorSample, value: float, std_error: float, diagnostics: dict[str, Any]) -> EvidenceEstimate:
    """Multiply an estimate under the prior restricted to a positive likelihood by the share of the prior there."""
    log_share, error = prior.log_share()
    diagnostics = {**diagnostics, "feasible_share": math.exp(log_share)}
    return EvidenceEstimate(value + log_share, math.hypot(std_error, error), diagnostics)


def _root(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return the zero of a decreasing function, by bisection to the last digit."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def _diagnostics(posterior: Posterior, likelihood: Tensor, relative: Tensor) -> dict[str, Any]:
    k, ess = pareto_k(-likelihood), _weight_ess(relative)
    if not k <= _NO_VARIANCE or ess < _FEW:
        warnings.warn(
            f"the variance of 1 / likelihood over the posterior seems to be infinite (tail index {k:.2f}, {ess:.0f} "
            "effective draws), so a harmonic mean and its error can be far off: use bridge or stepping_stone",
            EvidenceWarning,
            stacklevel=3,
        )
    finite = not math.isnan(k) and k <= _NO_VARIANCE
    return {**posterior.diagnostics, "pareto_k": k, "weight_ess": ess, "finite_variance": finite}


def _weight_ess(relative: Tensor) -> float:
    by_weight = relative.sum().square() / relative.square().sum()
    return torch.minimum(chain_ess(relative), by_weight).item()
