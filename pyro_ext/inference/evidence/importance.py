"""Importance sampling: estimates from the weights of independent draws."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from pyro_ext.inference.evidence.draws import EvidenceDraws
from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.warning import EvidenceWarning
from pyro_ext.inference.evidence.weights import check_weights, log_mean_exp, pareto_k

__all__ = ["NO_BOUND", "elbo", "importance_estimate", "naive_monte_carlo"]

NO_BOUND = (
    "the bound is minus infinity, since the likelihood is zero over a part of the approximation: use vbis, or pass a "
    "guide that draws only where it is positive"
)
_HEAVY_TAIL = 0.7  # above this tail index the mean of the weights converges too slowly
_FEW = 50.0  # effective draws
_FEW_SHARE = 0.1  # effective draws as a share of all draws


def importance_estimate(log_weights: Tensor) -> EvidenceEstimate:
    r"""Return the logarithm of the mean weight of independent draws, a consistent estimate of the log-evidence.

    .. math::  \log \bar w = \log \frac1N \sum_j w_j, \qquad
        \mathrm{s.e.} = \frac{1}{\sqrt{N}} \frac{\mathrm{sd}(w)}{\bar w}, \qquad
        \mathrm{ESS} = \frac{(\sum w)^2}{\sum w^2}

    It warns if the effective number of draws is small, or the tail of the weights heavy.

    Args:
        log_weights: the logarithms of the weights, ``(N,)``; -inf is allowed.

    Raises:
        ValueError: if a weight is not a number or infinite, or all weights are zero.

    Example:
        >>> importance_estimate(torch.zeros(100)).log_evidence
        0.0
    """
    check_weights(log_weights)
    value = log_mean_exp(log_weights)
    relative = (log_weights - value).exp()
    std_error = relative.std() / math.sqrt(len(relative))
    ess = (relative.sum().square() / relative.square().sum()).item()
    k = pareto_k(log_weights)
    if ess < min(_FEW, _FEW_SHARE * len(log_weights)) or (k > _HEAVY_TAIL and ess < _FEW_SHARE * len(log_weights)):
        warnings.warn(
            f"of {len(log_weights)} importance weights {ess:.1f} are effective, and their tail index is {k:.2f}: "
            "the estimate and its error may be far off; use bridge or stepping_stone",
            EvidenceWarning,
            stacklevel=2,
        )
    return EvidenceEstimate(value.item(), std_error.item(), {"ess": ess, "pareto_k": k})


def naive_monte_carlo(problem: Problem, num_samples: int) -> EvidenceEstimate:
    r"""Return :math:`\log \frac1N \sum_j p(D \mid x_j)` with draws :math:`x_j` from the prior."""
    values = problem.prior_draws(num_samples)
    densities = problem.at_values(values)
    draws = EvidenceDraws.weighted_values(problem, values, densities, densities.log_likelihood)
    return replace(importance_estimate(densities.log_likelihood), draws=draws)


def elbo(log_weights: Tensor) -> EvidenceEstimate:
    """Return the mean of the log-weights, a lower bound of the log-evidence.

    Args:
        log_weights: the logarithms of the weights of independent draws, ``(N,)``.

    Raises:
        ValueError: if a weight is zero, infinite or not a number, so that there is no bound.
    """
    check_weights(log_weights)
    if (log_weights == -torch.inf).any():
        raise ValueError(NO_BOUND)
    spread = log_weights.std().item()
    return EvidenceEstimate(log_weights.mean().item(), spread / math.sqrt(len(log_weights)), {"std_log_weight": spread})
