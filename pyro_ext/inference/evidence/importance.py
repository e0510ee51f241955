"""Importance sampling: weights of independent draws from a law that covers the posterior, or from the prior."""

from __future__ import annotations

import warnings

from torch import Tensor

from pyro_ext.inference.evidence.estimate import EvidenceEstimate, EvidenceWarning
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.weights import importance_log_mean

__all__ = ["importance_estimate", "naive_monte_carlo"]

_HEAVY_TAIL = 0.7  # tail index of the weights above which their mean converges too slowly
_FEW = 50.0  # effective draws
_FEW_SHARE = 0.1  # of the draws


def importance_estimate(log_weights: Tensor) -> EvidenceEstimate:
    r"""Return :math:`\log \frac1N \sum_j w_j` with its diagnostics; warn where few draws decide it.

    Args:
        log_weights: of independent draws, ``(N,)``.
    """
    found = importance_log_mean(log_weights)
    ess, k = found.diagnostics["ess"], found.diagnostics["pareto_k"]
    if ess < min(_FEW, _FEW_SHARE * len(log_weights)) or (k > _HEAVY_TAIL and ess < _FEW_SHARE * len(log_weights)):
        warnings.warn(
            f"of {len(log_weights)} importance weights {ess:.1f} are effective, and their tail index is {k:.2f}: "
            "the estimate and its error may be far off; use bridge or stepping_stone",
            EvidenceWarning,
            stacklevel=2,
        )
    return EvidenceEstimate(found.value, found.std_error, found.diagnostics)


def naive_monte_carlo(problem: Problem, num_samples: int) -> EvidenceEstimate:
    r"""Return :math:`\log \frac1N \sum_j p(D \mid x_j)` with draws from the prior."""
    return importance_estimate(problem.at_values(problem.prior_draws(num_samples)).log_likelihood)
