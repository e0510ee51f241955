"""Means of weights given by their logarithms, with standard errors, from independent draws and from Markov chains."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro.ops.stats import fit_generalized_pareto, split_gelman_rubin
from torch import Tensor

__all__ = [
    "LogMean",
    "chain_ess",
    "chain_r_hat",
    "checked_weights",
    "importance_log_mean",
    "log_mean_exp",
    "pareto_k",
]

_TAIL = 5  # fewest weights in a tail that a Pareto law is fitted to
_NEGLIGIBLE = 1e-250  # relative to the largest weight; the fit divides by such numbers


class LogMean(NamedTuple):
    """The logarithm of a mean of weights.

    Attributes:
        value: the logarithm of the mean.
        std_error: its standard error, by the delta method.
        diagnostics: ``ess`` and ``pareto_k``.
    """

    value: float
    std_error: float
    diagnostics: dict[str, Any]


def log_mean_exp(log_weights: Tensor, dim: int | tuple[int, ...] = 0) -> Tensor:
    """Return the logarithm of the mean weight along ``dim``."""
    dims = (dim,) if isinstance(dim, int) else dim
    return log_weights.logsumexp(dims) - math.log(math.prod(log_weights.shape[d] for d in dims))


def importance_log_mean(log_weights: Tensor) -> LogMean:
    r"""Return the log mean weight of independent draws.

    .. math::  \mathrm{s.e.} = \frac{1}{\sqrt{N}} \frac{\mathrm{sd}(w)}{\bar w}, \qquad
        \mathrm{ESS} = \frac{(\sum w)^2}{\sum w^2}

    Args:
        log_weights: ``(N,)``; -inf allowed.

    Raises:
        ValueError: if a weight is not a number or infinite, or all are zero.

    Example:
        >>> importance_log_mean(torch.zeros(10)).value
        0.0
    """
    checked_weights(log_weights)
    value = log_mean_exp(log_weights)
    relative = (log_weights - value).exp()
    std_error = relative.std() / math.sqrt(len(relative))
    ess = relative.sum().square() / relative.square().sum()
    found = {"ess": ess.item(), "pareto_k": pareto_k(log_weights)}
    return LogMean(value.item(), std_error.item(), found)


def checked_weights(log_weights: Tensor) -> None:
    """Raise ValueError unless the weights are numbers, finite, and not all zero."""
    wrong = log_weights.isnan() | (log_weights == torch.inf)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {wrong.numel()} draws have a log-density of {log_weights[wrong][0]:g}: "
            "check the model far from its data, and use float64"
        )
    if (log_weights == -torch.inf).all():
        raise ValueError(
            f"the density is zero at all {log_weights.numel()} draws: use more, or a method closer to the posterior"
        )


def pareto_k(log_weights: Tensor) -> float:
    """Return the tail index of weights: those above 0.5 have no variance, those above 1 no mean.

    Args:
        log_weights: ``(N,)``, of independent draws or of a chain; -inf where they are all equal.

    References:
        | Pareto smoothed importance sampling (Vehtari et al., 2024)
        | https://arxiv.org/abs/1507.02646
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
    r"""Return the effective sample size of the mean of each series: autocorrelation taken into account.

    .. math::  \mathrm{ESS} = \frac{N C}{\max(1, -1 + 2 \sum_k P_k)}, \qquad
        P_k = \rho_{2k} + \rho_{2k + 1},

    with autocorrelations about the mean of all chains, the sum up to the first negative pair, and pairs made to fall.

    Args:
        series: ``(draws, ..., chains)``.

    Returns:
        A tensor of the middle shape; the number of draws where a series is constant.

    References:
        | Rank-normalization, folding, and localization: an improved R-hat (Vehtari et al., 2021)
        | https://arxiv.org/abs/1903.08008

    Example:
        >>> chain_ess(torch.randn(500, 3, 4)) > 1500  # of 2000 independent draws
        tensor([True, True, True])
    """
    num_draws, total = series.shape[0], series.shape[0] * series.shape[-1]
    if num_draws < 4:
        return series.new_full(series.shape[1:-1], float(total))
    values = series.double()
    within = _autocovariance(values - values.mean(0)).mean(-1)  # (draws, ...)
    # As if each chain had as many independent draws as it has: variance within chains and between.
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
    """Return the split potential scale reduction of each series ``(draws, ..., chains)``, the middle shape."""
    if series.shape[0] < 4:
        return series.new_full(series.shape[1:-1], math.nan)
    return split_gelman_rubin(series, chain_dim=-1, sample_dim=0).nan_to_num(1.0)
