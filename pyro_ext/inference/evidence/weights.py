"""Diagnostics of weighted draws and of Markov chains: tail indices, effective sample sizes, R-hat.

The generalised Pareto fit and R-hat are those of ``pyro.ops.stats``. Effective sample sizes are computed here, since
``pyro.ops.stats.effective_sample_size`` needs memory and time that grow with the square of the number of draws: 160
times the time for 4,000 draws. Effective sample sizes and tail indices agree with those of ArviZ, whose import takes
seconds and brings xarray and pandas (``benchmarks/evidence_peers.py``).

References:
    | Pareto smoothed importance sampling (Vehtari et al., 2024)
    | https://arxiv.org/abs/1507.02646
    | Rank-normalization, folding, and localization: an improved R-hat (Vehtari et al., 2021)
    | https://arxiv.org/abs/1903.08008
"""

from __future__ import annotations

import math

import torch
from pyro.ops.stats import fit_generalized_pareto, split_gelman_rubin
from torch import Tensor

__all__ = ["chain_ess", "chain_r_hat", "check_weights", "log_mean_exp", "pareto_k"]

_TAIL = 5  # the least number of weights in a tail to which a Pareto distribution is fitted
_NEGLIGIBLE = 1e-250  # relative to the largest weight: the fit divides by the weights, so smaller ones are left out


def log_mean_exp(log_weights: Tensor, dim: int | tuple[int, ...] = 0) -> Tensor:
    """Return the logarithm of the mean weight.

    Args:
        log_weights: the logarithms of the weights, any shape.
        dim: the dims to average over.
    """
    dims = (dim,) if isinstance(dim, int) else dim
    return log_weights.logsumexp(dims) - math.log(math.prod(log_weights.shape[d] for d in dims))


def check_weights(log_weights: Tensor) -> None:
    """Raise a ValueError if a weight is infinite or not a number, or if all weights are zero.

    Args:
        log_weights: the logarithms of the weights, any shape.
    """
    wrong = log_weights.isnan() | (log_weights == torch.inf)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {wrong.numel()} draws have a log-density of {log_weights[wrong][0]:g}: "
            "check the model at values far from the posterior, and use float64"
        )
    if (log_weights == -torch.inf).all():
        raise ValueError(
            f"the density is zero at all {log_weights.numel()} draws: use more draws (num_samples), narrow the prior, "
            "or pass draws from the posterior as posterior= to bridge or generalized_stepping_stone"
        )


def pareto_k(log_weights: Tensor) -> float:
    """Return the tail index of weights: above 0.5 their variance is infinite, above 1 their mean is.

    It is -inf if the largest weights are equal, and nan if there are too few of them.

    Args:
        log_weights: the logarithms of the weights of independent draws or of a Markov chain, any shape.
    """
    ordered = log_weights.flatten().double().sort().values
    ordered = (ordered - ordered[-1]).exp()
    size = min(len(ordered) // 5, math.ceil(3 * math.sqrt(len(ordered))))
    if size < _TAIL:
        return math.nan
    excess = ordered[-size:] - ordered[-size - 1]
    if excess[-1] <= 1e-9:
        return -math.inf
    excess = excess[excess > _NEGLIGIBLE]
    return float(fit_generalized_pareto(excess)[0]) if len(excess) >= _TAIL else math.inf


def chain_ess(series: Tensor) -> Tensor:
    r"""Return the effective sample size of the mean of each series, which takes autocorrelation into account.

    .. math::  \mathrm{ESS} = \frac{N C}{\max(1, -1 + 2 \sum_k P_k)}, \qquad
        P_k = \rho_{2k} + \rho_{2k + 1},

    with N draws of each of C chains. Autocorrelations :math:`\rho` are taken about the mean of all chains. The sum ends
    before the first negative pair, and the pairs are made non-increasing.

    Args:
        series: the values of the draws, ``(draws, ..., chains)``.

    Returns:
        The effective sample size of each series, of the shape between draws and chains; where a series is constant,
        the number of draws.

    Example:
        >>> chain_ess(torch.randn(500, 3, 4)) > 1500  # of 2000 independent draws
        tensor([True, True, True])
    """
    num_draws, total = series.shape[0], series.shape[0] * series.shape[-1]
    if num_draws < 4:
        return series.new_full(series.shape[1:-1], float(total))
    values = series.double()
    within = _autocovariance(values - values.mean(0)).mean(-1)  # (draws, ...)
    # The variance of the draws: that within chains and that between the means of chains.
    between = values.mean(0).var(-1) if series.shape[-1] > 1 else 0.0
    scale = num_draws / (num_draws - 1)
    variance = within[0] + between
    correlation = 1 - (within[0] - within) * scale / variance.clamp_min(torch.finfo(values.dtype).tiny)
    correlation[0] = 1.0
    even = num_draws // 2 * 2
    pairs = correlation[:even:2] + correlation[1:even:2]
    positive = (pairs > 0).cumprod(0)
    time = (2 * (pairs * positive).cummin(0).values * positive).sum(0) - 1
    ess = total / time.clamp_min(1.0)
    return torch.where(variance > 0, ess, torch.full_like(ess, total)).to(series.dtype)


def _autocovariance(centred: Tensor) -> Tensor:
    """Return the autocovariance at each lag along the first dim, divided by the number of draws."""
    size = len(centred)
    spectrum = torch.fft.rfft(centred, n=2 * size, dim=0)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * size, dim=0)[:size] / size


def chain_r_hat(series: Tensor) -> Tensor:
    """Return the split R-hat of each series; it is close to 1 if the chains agree.

    Args:
        series: the values of the draws, ``(draws, ..., chains)``.
    """
    if series.shape[0] < 4:
        return series.new_full(series.shape[1:-1], math.nan)
    return split_gelman_rubin(series, chain_dim=-1, sample_dim=0).nan_to_num(1.0)
