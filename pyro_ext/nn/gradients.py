r"""How the gradient of a network changes with its input: like white noise, like brown noise, or not at all.

In deep networks of rectifiers with batch norm the gradients at two inputs have little to do with each other, however
close the inputs are: they are *shattered*. A network of one variable shows it: its gradient along a line is a curve,
and the autocorrelation of the curve says how far away the gradient still is about the same.

References:
    | The shattered gradients problem: if resnets are the answer, then what is the question? (Balduzzi et al., 2017)
    | https://arxiv.org/abs/1702.08591
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_ext.utils.checks import finite_number, positive_int

__all__ = ["autocorrelation", "gradient_autocorrelation", "gradient_correlation", "input_gradients"]

_ROUNDING = 1e4  # a curve that varies by less than so many units in the last place of its values is constant


def input_gradients(
    f: Callable[[Tensor], Tensor], lo: float = -2.0, hi: float = 2.0, n: int = 256, like: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Return n points of a line and the gradients :math:`df/dx` of a function of one variable there.

    Args:
        f: maps points of shape ``(n, 1)`` to values of shape ``(n,)`` or ``(n, 1)``, each row by itself. A module with
            batch norm depends on the other rows while it is in training mode; call its ``eval()`` first.
        lo: the first point.
        hi: the last point.
        n: the number of points, equally far from each other.
        like: a tensor whose device and type the points have; if None, those of the parameters of ``f`` if it is a
            module that has any, and PyTorch's default ones otherwise.

    Returns:
        The points and the gradients, both of shape ``(n,)``.

    Raises:
        ValueError: if ``lo`` is not less than ``hi``, ``n`` is less than 2, or ``f`` returns values of another shape or
            values that do not depend on the points.

    Example:
        >>> x, gradient = input_gradients(torch.square, lo=0.0, hi=2.0, n=5)
        >>> gradient
        tensor([0., 1., 2., 3., 4.])
    """
    lo, hi = finite_number("lo", lo), finite_number("hi", hi)
    if not lo < hi:
        raise ValueError(f"lo must be less than hi, got {lo:g} and {hi:g}")
    positive_int("n", n, minimum=2)
    if like is None:
        like = next(f.parameters(), torch.zeros(())) if isinstance(f, nn.Module) else torch.zeros(())
    x = torch.linspace(lo, hi, n, dtype=like.dtype, device=like.device)
    with torch.enable_grad():
        points = x.unsqueeze(-1).requires_grad_()
        y = f(points)
        if not isinstance(y, Tensor) or y.shape not in ((n,), (n, 1)):
            shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"f must return one value for each point, of shape ({n},) or ({n}, 1), got {shape}")
        if not y.requires_grad:
            raise ValueError("f must be differentiable, but its values do not depend on the points")
        (gradient,) = torch.autograd.grad(y.sum(), points, allow_unused=True)
    if gradient is None:
        raise ValueError("f must be differentiable, but its values do not depend on the points")
    return x, gradient.squeeze(-1)


def autocorrelation(values: Tensor, max_lag: int = 15) -> Tensor:
    r"""Return the autocorrelation of curves at lags 0 to ``max_lag``.

    .. math::  r_k = \frac{\sum_i z_i z_{i + k}}{\sum_i z_i^2}, \qquad z = x - \bar{x}.

    A curve that is constant up to rounding gets 1 at all lags: nothing is more predictable. Rounding is what lies
    within 10,000 units in the last place of the mean, which is 0.1 % of it in float32; to see smaller changes than
    that, use float64. Half types are taken as float32 values.

    Args:
        values: the curves, shape ``(..., n)``.
        max_lag: the largest lag, less than n.

    Returns:
        The autocorrelations, shape ``(..., max_lag + 1)``, whatever the scale of the values is.

    Raises:
        ValueError: if ``values`` is no tensor of real numbers of shape ``(..., n)``, or a lag does not fit into it.

    Example:
        >>> autocorrelation(torch.tensor([1.0, -1.0, 1.0, -1.0]), max_lag=2)
        tensor([ 1.0000, -0.7500,  0.5000])
    """
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.dim() == 0:
        raise ValueError(f"values must be a tensor of real numbers of shape (..., n), got {values!r}")
    n = values.shape[-1]
    positive_int("max_lag", max_lag, minimum=0, maximum=max(n - 1, 0))
    curves = values.to(torch.promote_types(values.dtype, torch.float32))
    # gradients of deep networks may be so small, or so large, that their squares are zero or infinite
    largest = curves.detach().abs().amax(-1, keepdim=True)
    curves = curves / torch.where((largest > 0) & largest.isfinite(), largest, 1)
    mean = curves.mean(-1, keepdim=True)
    z = curves - mean
    rounding = _ROUNDING * torch.finfo(curves.dtype).eps
    constant = z.abs().amax(-1) <= rounding * mean.squeeze(-1).abs()
    norm = z.square().sum(-1)
    lags = torch.stack([(z[..., : n - k] * z[..., k:]).sum(-1) for k in range(max_lag + 1)], -1)
    # A constant curve may have a norm of zero: no division by it, so that no gradient is NaN either.
    safe = lags / torch.where(constant, torch.ones_like(norm), norm).unsqueeze(-1)
    return torch.where(constant.unsqueeze(-1), torch.ones_like(safe), safe).to(values.dtype)


def gradient_autocorrelation(
    f: Callable[[Tensor], Tensor],
    lo: float = -2.0,
    hi: float = 2.0,
    n: int = 256,
    max_lag: int = 15,
    like: Tensor | None = None,
) -> Tensor:
    r"""Return the autocorrelation of the gradient of a function of one variable, at lags 0 to ``max_lag``.

    White noise has about 0 at all lags but the first, where it has 1; brown noise falls slowly from 1; an affine map,
    such as a looks-linear network at its initialisation, has 1 everywhere.

    Args:
        f: maps points of shape ``(n, 1)`` to one value each, row by row, as for :func:`input_gradients`.
        lo: the first point.
        hi: the last point.
        n: the number of points.
        max_lag: the largest lag, in steps of ``(hi - lo) / (n - 1)``.
        like: a tensor whose device and type are used; by default those of the parameters of ``f``.

    Returns:
        The autocorrelation, shape ``(max_lag + 1,)``.

    Raises:
        ValueError: if an argument is out of range, or ``f`` returns no value for each point.

    References:
        | The shattered gradients problem (Balduzzi et al., 2017), section 3.1 and figure 2
        | https://arxiv.org/abs/1702.08591

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 200), torch.nn.ReLU(), torch.nn.Linear(200, 1))
        >>> bool(gradient_autocorrelation(net)[1] > 0.9)  # one hidden layer: brown noise
        True
    """
    return autocorrelation(input_gradients(f, lo, hi, n, like)[1], max_lag)


def gradient_correlation(f: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    r"""Return the mean correlation (cosine) of the gradients of a scalar function at different inputs.

    For wide networks and unrelated inputs it is close to the correlation over random initialisations, of which section
    1.3 of the paper says that it is :math:`2^{-L}` after L layers of rectifiers, if each unit is active for half of the
    inputs and two inputs share a quarter of the units, and :math:`(3/4)^L` with skip connections around each layer.

    Args:
        f: maps inputs of shape ``(n, D)`` to values of shape ``(n,)`` or ``(n, 1)``, each row by itself.
        inputs: the inputs, shape ``(n, D)``, two at least.

    Returns:
        The mean over all pairs, a scalar.

    Raises:
        ValueError: if ``inputs`` has another shape, ``f`` does not return one value for each row, or its values do not
            depend on the inputs.

    References:
        | The shattered gradients problem (Balduzzi et al., 2017), theorems 1 and 2
        | https://arxiv.org/abs/1702.08591

    Example:
        >>> gradient_correlation(torch.nn.Linear(3, 1), torch.randn(4, 3))  # a linear map has one gradient
        tensor(1.)
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 2 or len(inputs) < 2:
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"inputs must have shape (n, D) with two rows at least, got {shape}")
    with torch.enable_grad():
        points = inputs.detach().requires_grad_()
        y = f(points)
        if y.shape not in ((len(inputs),), (len(inputs), 1)):
            raise ValueError(f"f must return one value for each of {len(inputs)} inputs, got shape {tuple(y.shape)}")
        (gradients,) = torch.autograd.grad(y.sum(), points, allow_unused=True) if y.requires_grad else (None,)
    if gradients is None:
        raise ValueError("f must be differentiable, but its values do not depend on the inputs")
    # gradients of deep networks may be so small, or so large, that their squares are zero or infinite
    largest = gradients.abs().amax(-1, keepdim=True)
    unit = nn.functional.normalize(gradients / torch.where(largest > 0, largest, 1), dim=-1)
    n = len(inputs)
    return (unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))
