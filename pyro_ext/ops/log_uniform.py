"""The divergence of a normal distribution from the log-uniform prior, as a function of the noise-to-signal ratio."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.utils.checks import one_of

__all__ = ["KL_FORMS", "KLForm", "log_alpha", "log_uniform_kl"]

KLForm = Literal["approx", "exact"]
KL_FORMS: tuple[KLForm, ...] = ("approx", "exact")

# the fit of Molchanov et al. (2017), equation 14
_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695
# added to squares inside of logarithms, so that a mean of zero has a finite ratio and a finite gradient
_TINY = 1e-16
# where half of the Chebyshev nodes lie below: u / (u + _MIDDLE) maps the half-line to an interval
_MIDDLE = 4.0


def log_alpha(loc: Tensor, log_variance: Tensor) -> Tensor:
    r"""Return the log of the noise-to-signal ratio, :math:`\log\alpha = \log\sigma^2 - \log(\theta^2 + 10^{-16})`.

    Args:
        loc: the means :math:`\theta`, of any shape.
        log_variance: the log-variances :math:`\log\sigma^2`, broadcastable with ``loc``.

    Example:
        >>> log_alpha(torch.tensor([1.0, 0.0]), torch.tensor(-8.0))
        tensor([-8.0000, 28.8414])
    """
    return log_variance - (loc.square() + _TINY).log()


def log_uniform_kl(log_alpha: Tensor, kl: KLForm = "approx") -> Tensor:
    r"""Return the divergence of :math:`\mathcal{N}(\theta, \alpha\theta^2)` from the log-uniform prior, in nats.

    The prior is improper, so that the divergence is defined up to a constant only; here it is 0 in the limit of large
    :math:`\alpha`. With :math:`u = 1 / (2\alpha)` and Dawson's function D,

    .. math::  \mathrm{KL} = 2 \int_0^{\sqrt u} D(t)\, dt, \qquad
        \frac{d\, \mathrm{KL}}{d \log\alpha} = -\sqrt u\, D(\sqrt u),

    exactly, and to 0.0094 at most

    .. math::  \mathrm{KL} \approx k_1\, \mathrm{sigmoid}(-k_2 - k_3 \log\alpha) + \tfrac12 \log(1 + 1/\alpha).

    Both are finite, with finite gradients, for every finite argument; nothing is clipped.

    Args:
        log_alpha: logarithms of the ratio of variance to squared mean, of any shape.
        kl: ``"approx"`` for the second formula, ``"exact"`` for the first, to about 1e-11 in float64 and to rounding
            in float32. The exact gradient is not differentiable a second time.

    Returns:
        The divergences, of the shape of ``log_alpha``.

    Raises:
        ValueError: if ``kl`` is not one of the two.

    References:
        | Variational dropout sparsifies deep neural networks (Molchanov et al., 2017), equation 14
        | https://arxiv.org/abs/1701.05369

    Example:
        >>> ratios = torch.tensor([-8.0, 0.0, 3.0])
        >>> log_uniform_kl(ratios), log_uniform_kl(ratios, "exact")
        (tensor([4.6359, 0.4312, 0.0254]), tensor([4.6350, 0.4267, 0.0247]))
    """
    one_of("kl", kl, KL_FORMS)
    if kl == "exact":
        value: Tensor = _ExactKL.apply(log_alpha)
        return value
    return _K1 * torch.sigmoid(-_K2 - _K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)


class _ExactKL(torch.autograd.Function):
    """The exact divergence; its gradient is an evaluation of Dawson's function of its own, made going backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(log_alpha: Tensor) -> Tensor:
        values, _ = _series(log_alpha.dtype == torch.float64)
        return 0.5 * F.softplus(-log_alpha) + _clenshaw(values, _position(log_alpha))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (log_alpha,) = ctx.saved_tensors
        _, slopes = _series(log_alpha.dtype == torch.float64)
        return -grad * _clenshaw(slopes, _position(log_alpha))


def _position(log_alpha: Tensor) -> Tensor:
    """Return (u - c) / (u + c) in [-1, 1] for u = 1 / (2 alpha), without overflow."""
    return -torch.tanh(0.5 * (log_alpha + math.log(2 * _MIDDLE)))


def _clenshaw(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Return a Chebyshev series at ``x``."""
    twice, last, before = 2 * x, torch.zeros_like(x), torch.zeros_like(x)
    for coefficient in reversed(coefficients[1:]):
        last, before = torch.addcmul(coefficient - before, twice, last), last
    return torch.addcmul(coefficients[0] - before, x, last)


@functools.cache
def _series(precise: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return Chebyshev coefficients, in ``_position``, of KL - log1p(2u) / 2 and of sqrt(u) D(sqrt(u))."""
    of_values, of_slopes = (40, 40) if precise else (16, 20)  # errors of 1e-11, and of 1e-6
    from scipy.special import dawsn  # adds a filter of warnings when it is imported

    def u(x: Any) -> Any:
        return _MIDDLE * (1 + x) / (1 - x)

    def value_slope(x: Any) -> Any:
        root = np.sqrt(u(x))
        return (dawsn(root) / root - 1 / (1 + 2 * u(x))) * (u(x) + _MIDDLE) ** 2 / (2 * _MIDDLE)

    def slope(x: Any) -> Any:
        return np.sqrt(u(x)) * dawsn(np.sqrt(u(x)))

    values = chebyshev.chebint(chebyshev.chebinterpolate(value_slope, of_values), lbnd=-1)
    slopes = chebyshev.chebinterpolate(slope, of_slopes)
    return tuple(map(float, values)), tuple(map(float, slopes))
