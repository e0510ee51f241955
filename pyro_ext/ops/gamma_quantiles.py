"""Means of the equally probable parts of a Gamma distribution, differentiable in its shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["gamma_category_means"]

_STEP = 1e-4  # relative, of the central differences
_Array = np.ndarray[Any, np.dtype[np.float64]]


def gamma_category_means(shape: Tensor, num_categories: int) -> Tensor:
    r"""Return the mean of each of K equally probable parts of a Gamma distribution of mean 1.

    With :math:`b_i` the i/K-quantile of Gamma(:math:`\alpha`, 1) and I the regularised incomplete gamma function,

    .. math::  r_i = K \left[ I(\alpha + 1, b_i) - I(\alpha + 1, b_{i-1}) \right].

    The gradient in :math:`\alpha` includes that of the quantiles, by the implicit function theorem. Second derivatives
    are central differences of the first, to about eight digits; there are no third ones.

    Args:
        shape: the shape parameter :math:`\alpha`, a positive tensor of any shape.
        num_categories: the number K of parts.

    Returns:
        The means in increasing order, ``shape.shape + (K,)``; their average is 1.

    References:
        | Maximum likelihood phylogenetic estimation from DNA sequences with variable rates over sites (Yang, 1994)
        | https://doi.org/10.1007/BF00160154

    >>> gamma_category_means(torch.tensor(0.5), 4)
    tensor([0.0334, 0.2519, 0.8203, 2.8944])
    """
    result: Tensor = _GammaCategoryMeans.apply(shape, num_categories)
    return result


class _GammaCategoryMeans(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shape: Tensor, num_categories: int) -> Tensor:
        ctx.save_for_backward(shape)
        ctx.num_categories = num_categories
        from scipy import special

        alpha, quantile, ends = _quantiles(shape, num_categories)
        cumulated = np.concatenate([0 * ends, special.gammainc(alpha + 1, quantile), ends], -1)
        return shape.new_tensor(num_categories * np.diff(cumulated))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (shape,) = ctx.saved_tensors
        slopes: Tensor = _Slopes.apply(shape, ctx.num_categories)
        return (grad * slopes).sum(-1), None


class _Slopes(torch.autograd.Function):
    """Derivatives of the means in the shape, ``shape.shape + (K,)``."""

    @staticmethod
    def forward(ctx: Any, shape: Tensor, num_categories: int) -> Tensor:
        ctx.save_for_backward(shape)
        ctx.num_categories = num_categories
        alpha, quantile, ends = _quantiles(shape, num_categories)
        # dI(a + 1, b) = I_a da + I_b db, and along a quantile db = -I_a(a, b) / I_b(a, b) da
        slope = _shape_derivative(alpha + 1, quantile) - quantile / alpha * _shape_derivative(alpha, quantile)
        return shape.new_tensor(num_categories * np.diff(np.concatenate([0 * ends, slope, 0 * ends], -1)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (shape,) = ctx.saved_tensors
        exact = shape.double()
        above, below = (_Slopes.apply(exact * (1 + step), ctx.num_categories) for step in (_STEP, -_STEP))
        bend = (above - below) / (2 * _STEP * exact.unsqueeze(-1))
        return (grad * bend.to(grad)).sum(-1), None


def _quantiles(shape: Tensor, num_categories: int) -> tuple[_Array, _Array, _Array]:
    """Return the shapes ``(..., 1)``, the ends of all parts but the last ``(..., K - 1)``, and ones ``(..., 1)``."""
    # SciPy has the quantile; these are a handful of numbers. Its import alone would add a warning filter.
    from scipy import special

    alpha = shape.detach().double().cpu().numpy()[..., None]
    quantile: _Array = special.gammaincinv(alpha, np.arange(1, num_categories) / num_categories)
    return alpha, quantile, np.ones_like(alpha)


def _shape_derivative(alpha: _Array, x: _Array) -> _Array:
    r"""Return :math:`\partial I(\alpha, x) / \partial \alpha` from the series of I in powers of x."""
    from scipy import special

    number = int(40 + np.max(x, initial=0) * 2 + 12 * np.sqrt(np.max(x, initial=0)))
    order = np.arange(number) + 1 + alpha[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):  # at x = 0
        log_x = np.log(x)[..., None]
        log_term = (order - 1) * log_x - x[..., None] - special.gammaln(order)
        terms: _Array = np.exp(log_term) * (log_x - special.digamma(order))
    total: _Array = np.where(x > 0, terms.sum(-1), 0)
    return total
