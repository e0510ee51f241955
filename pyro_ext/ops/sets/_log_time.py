"""Set probabilities as a one-dimensional integral, for sets too large for the program over subsets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_ext.ops.sets._log_space import is_nothing

# Left of its peak the integrand grows at least like exp(u), so what lies below -40 is exp(-40) of the whole.
_LOWEST = -40.0
_STEP = 0.125
# Where x is smaller, log(1 - exp(-exp(x))) is x - exp(x) / 2 to double precision; where it is larger, 0.
_SMALL, _SATURATED = -16.0, 5.0


def _grid(k: int, like: Tensor) -> tuple[Tensor, float]:
    """Return the points ``u`` and their spacing; the peak is at worst a Gamma(k + 1), ``1 / sqrt(k)`` wide."""
    step = _STEP * min(1.0, math.sqrt(32 / k))
    count = math.ceil((math.log(80 + 4 * k) - _LOWEST) / step)
    return torch.arange(count, dtype=like.dtype, device=like.device) * step + _LOWEST, step


def _log_arrived(x: Tensor) -> Tensor:
    """Return ``log(1 - exp(-exp(x)))``, accurate and with finite gradients for every ``x``."""
    body = x.clamp(_SMALL, _SATURATED).exp().neg().expm1().neg().log()
    tail = x.clamp(max=_SMALL)
    return torch.where(x < _SMALL, tail - 0.5 * tail.exp(), body)


def _log_integrand(log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor, float]:
    r"""Return the log-integrand ``(B, M)``, the members' log-factors in it ``(B, M, k)`` and the spacing.

    Let member ``i`` arrive after an exponential time of rate :math:`p_i` and anything outside at rate ``r``. The
    set is drawn if all its members come first; with :math:`u = \log(r t)`,

    .. math::  p(S) = \int \exp(u - e^u) \prod_{i \in S} \bigl(1 - \exp(-e^{u + \log p_i - \log r})\bigr) du,

    analytic and decaying on both sides, so that the plain trapezoid rule converges exponentially.
    """
    u, step = _grid(log_p.shape[-1], log_p)
    x = u[:, None] + (log_p - log_rest.unsqueeze(-1)).unsqueeze(-2)
    # members of probability zero are passed over, as in the program over subsets
    factors = _log_arrived(x).masked_fill(is_nothing(log_p).unsqueeze(-2), 0)
    return u - u.exp() + factors.sum(-1), factors, step


def log_set_prob(log_p: Tensor, log_rest: Tensor) -> Tensor:
    """Return the log-probability ``(B,)`` of the sets with floored members ``log_p (B, k)``."""
    integrand, _, step = _log_integrand(log_p, log_rest)
    return integrand.logsumexp(-1) + math.log(step)


def log_ratios(log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return first order ``(B, k)`` and second order ``(B, k, k)`` log-ratios of floored ``log_p (B, k)``.

    To leave a member out is to divide by its factor. With ``a_0 = exp(integrand / 2)`` and ``a_i = a_0 / factor_i``
    every integral needed is an entry of one Gram matrix; all its columns peak together, so nothing underflows.
    """
    integrand, factors, _ = _log_integrand(log_p, log_rest)
    half = 0.5 * integrand.unsqueeze(-1)
    columns = torch.cat([half, half - factors], -1)
    scale = columns.amax(-2, keepdim=True)
    columns = (columns - scale).exp()
    scale = scale.squeeze(-2)
    log_gram = (columns.mT @ columns).log() + scale.unsqueeze(-1) + scale.unsqueeze(-2)
    second = log_gram[:, 1:, 1:] - log_gram[:, 0, 1:].unsqueeze(-1)
    second.diagonal(dim1=-2, dim2=-1).zero_()
    return log_gram[:, 0, 1:] - log_gram[:, :1, 0], second
