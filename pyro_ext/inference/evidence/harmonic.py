"""Harmonic means of the likelihood over posterior draws: cheap, and unusable more often than not.

References:
    | Approximate Bayesian inference with the weighted likelihood bootstrap (Newton & Raftery, 1994)
    | https://doi.org/10.1111/j.2517-6161.1994.tb01956.x
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.evidence.estimate import EvidenceEstimate, EvidenceWarning
from pyro_ext.inference.evidence.posterior import Posterior
from pyro_ext.inference.evidence.weights import chain_ess, checked_weights, log_mean_exp, pareto_k

__all__ = ["harmonic_mean", "stabilized_harmonic_mean"]

_NO_VARIANCE = 0.5  # tail index from which the variance is infinite
_FEW = 100.0  # effective draws of 1 / L


def harmonic_mean(posterior: Posterior) -> EvidenceEstimate:
    r"""Return :math:`-\log \frac1N \sum_i 1 / p(D \mid x_i)`; warn where the variance of 1/L looks infinite."""
    likelihood = posterior.densities.log_likelihood
    checked_weights(-likelihood)
    value = -log_mean_exp(-likelihood, (0, 1))
    relative = (value - likelihood).exp()
    figures = _figures(posterior, likelihood, relative)
    std_error = relative.std() / figures["weight_ess"] ** 0.5
    return EvidenceEstimate(value.item(), std_error.item(), figures)


def stabilized_harmonic_mean(posterior: Posterior, delta: float) -> EvidenceEstimate:
    r"""Return the fixed point p of the harmonic mean with imagined prior draws of likelihood p.

    .. math::  \sum_i \frac{L_i - p}{\delta p + (1 - \delta) L_i} = 0

    It has a variance where the harmonic mean has none, and a bias that no number of draws removes. The standard
    error does not include that bias.

    Args:
        posterior: the draws.
        delta: the share of imagined draws.
    """
    likelihood = posterior.densities.log_likelihood
    checked_weights(-likelihood)

    def terms(log_p: Tensor) -> Tensor:
        ratio = likelihood - log_p
        # Divided by the larger of L and p, neither overflows.
        top = ratio.clamp(max=0).exp() - (-ratio).clamp(max=0).exp()
        return top / (delta * (-ratio).clamp(max=0).exp() + (1 - delta) * ratio.clamp(max=0).exp())

    log_p = _root(lambda p: terms(p).mean(), likelihood.min(), likelihood.max())
    found = terms(log_p)
    ratio = (likelihood - log_p).exp()
    slope = (ratio / (delta + (1 - delta) * ratio).square()).mean()  # minus the derivative by log p
    relative = (log_p - likelihood).exp()
    figures = _figures(posterior, likelihood, relative)
    std_error = found.std() / slope / chain_ess(found).sqrt()
    return EvidenceEstimate(log_p.item(), std_error.item(), figures)


def _root(falling: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return where a falling function crosses zero, by bisection to the last digit."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _figures(posterior: Posterior, likelihood: Tensor, relative: Tensor) -> dict[str, Any]:
    k, ess = pareto_k(-likelihood), _weight_ess(relative)
    if not k <= _NO_VARIANCE or ess < _FEW:
        warnings.warn(
            f"the variance of 1 / likelihood over the posterior looks infinite (tail index {k:.2f}, {ess:.0f} "
            "effective draws), so a harmonic mean and its error can be far off: use bridge or stepping_stone",
            EvidenceWarning,
            stacklevel=3,
        )
    finite = not math.isnan(k) and k <= _NO_VARIANCE
    return {**posterior.diagnostics, "pareto_k": k, "weight_ess": ess, "finite_variance": finite}


def _weight_ess(relative: Tensor) -> float:
    by_weight = relative.sum().square() / relative.square().sum()
    return torch.minimum(chain_ess(relative), by_weight).item()
