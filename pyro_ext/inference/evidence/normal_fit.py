"""Normal distributions fitted to draws: the fewer the draws, the more the correlations are shrunk towards zero."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

__all__ = ["fitted_normal", "shrunk_correlation", "shrunk_covariance"]

_RIDGE = 1e-8  # added to the diagonal, for coordinates that are copies of others


def shrunk_correlation(draws: Tensor, ess: float | None = None) -> Tensor:
    r"""Return a correlation matrix ``(D, D)`` that is well conditioned however few the draws.

    Correlations are multiplied by :math:`1 - \lambda`, where :math:`\lambda` is the sum of their sampling variances
    divided by the sum of their squares. It vanishes as the number of draws grows.

    Args:
        draws: the draws, ``(N, D)``.
        ess: the effective number of draws; N if None.

    References:
        | A shrinkage approach to large-scale covariance matrix estimation (Schäfer & Strimmer, 2005)
        | https://doi.org/10.2202/1544-6115.1175

    Example:
        >>> x = torch.randn(1000, 1) + 0.1 * torch.randn(1000, 2)
        >>> 0.95 < shrunk_correlation(x)[0, 1] < 1
        tensor(True)
    """
    count = float(len(draws)) if ess is None else ess
    centred = draws - draws.mean(0)
    scaled = centred / _deviation(draws)
    correlation = scaled.T @ scaled / (len(draws) - 1)
    off = correlation - torch.diag(correlation.diagonal())
    noise = (1 - off.square()).square().sum() - len(off)
    shrinkage = (noise / max(count - 1, 1.0) / off.square().sum().clamp_min(1e-12)).clamp(0, 1)
    off = off * (1 - shrinkage)
    off.diagonal().fill_(1 + _RIDGE)
    return off


def shrunk_covariance(draws: Tensor, ess: float | None = None) -> Tensor:
    """Return a covariance matrix ``(D, D)`` with shrunk correlations.

    Args:
        draws: the draws, ``(N, D)``.
        ess: the effective number of draws; N if None.
    """
    sd = _deviation(draws)
    return shrunk_correlation(draws, ess) * sd * sd[:, None]


def _deviation(draws: Tensor) -> Tensor:
    return draws.std(0).clamp_min(torch.finfo(draws.dtype).tiny ** 0.5)


def fitted_normal(draws: Tensor, ess: float | None = None) -> MultivariateNormal:
    """Return the normal distribution with the mean and the shrunk covariance of draws.

    Args:
        draws: the draws, ``(N, D)``.
        ess: the effective number of draws; N if None.
    """
    covariance = shrunk_covariance(draws, ess)
    scale = torch.linalg.cholesky(covariance.double()).to(covariance.dtype)
    return MultivariateNormal(draws.mean(0), scale_tril=scale, validate_args=False)
