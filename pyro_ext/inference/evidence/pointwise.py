"""Scores of prediction, summed over data units: they rank models by other questions than the evidence asks.

References:
    | A predictive approach to model selection (Geisser & Eddy, 1979)
    | https://doi.org/10.1080/01621459.1979.10481632
    | Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari et al., 2017)
    | https://arxiv.org/abs/1507.04544
"""

from __future__ import annotations

import math

from torch import Tensor

from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.posterior import Posterior
from pyro_ext.inference.evidence.weights import chain_ess, checked_weights, log_mean_exp

__all__ = ["cpo", "ppd"]


def cpo(posterior: Posterior, units: Tensor, weights: Tensor) -> EvidenceEstimate:
    r"""Return the logarithm of the product of conditional predictive ordinates.

    .. math::  \sum_i w_i \log p(D_i \mid D_{-i}) \approx -\sum_i w_i \log \frac1N \sum_j \frac1{p(D_i \mid x_j)}

    Args:
        posterior: the draws.
        units: the log-likelihood of each unit at each draw, ``(N, C, U)``.
        weights: how often each unit occurs, ``(U,)``.
    """
    return _score(posterior, -log_mean_exp(-units, (0, 1)), -units, weights)


def ppd(posterior: Posterior, units: Tensor, weights: Tensor) -> EvidenceEstimate:
    r"""Return the log posterior predictive density of the data themselves.

    .. math::  \sum_i w_i \log \frac1N \sum_j p(D_i \mid x_j)

    Args:
        posterior: the draws.
        units: the log-likelihood of each unit at each draw, ``(N, C, U)``.
        weights: how often each unit occurs, ``(U,)``.
    """
    return _score(posterior, log_mean_exp(units, (0, 1)), units, weights)


def _score(posterior: Posterior, values: Tensor, log_terms: Tensor, weights: Tensor) -> EvidenceEstimate:
    checked_weights(log_terms)
    # To first order the score is a mean over draws of the sum over units of relative terms.
    relative = (log_terms - log_mean_exp(log_terms, (0, 1))).exp()
    series = relative @ weights
    error = (series.std() / chain_ess(series).sqrt()).item()
    figures = {**posterior.diagnostics, "num_units": weights.sum().item(), "monte_carlo_error": error}
    return EvidenceEstimate((values @ weights).item(), math.nan, figures, is_score=True)
