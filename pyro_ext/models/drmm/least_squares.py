r"""Least squares through any linear map, by conjugate gradients.

.. math::  \min_v |b - A v|^2, \qquad r = b - A v, \qquad s = A^\top r,

where A is a function and its adjoint comes from differentiating it. From a given start, every step lowers the error,
and directions that A does not see stay as they are.

References:
    | Methods of conjugate gradients for solving linear systems (Hestenes and Stiefel, 1952)
    | https://doi.org/10.6028/jres.049.044
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients"]


def conjugate_gradients(linear: Callable[[Tensor], Tensor], target: Tensor, start: Tensor, num_steps: int) -> Tensor:
    """Return ``v``, of the shape of ``start``, for which ``linear(v)`` is near ``target`` in squares.

    Args:
        linear: a linear function.
        target: b.
        start: where to begin.
        num_steps: how many steps; as many as ``start`` has elements reach the minimum, up to rounding.

    Example:
        >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> conjugate_gradients(lambda v: a @ v, a @ torch.tensor([1.0, -1.0]), torch.zeros(2), 2)
        tensor([ 1.0000, -1.0000])
    """
    point = torch.zeros_like(start).requires_grad_()
    with torch.enable_grad():
        image = linear(point)

    def adjoint(r: Tensor) -> Tensor:
        return torch.autograd.grad(image, point, r, retain_graph=True)[0]

    with torch.no_grad():
        v = start.clone()
        r = target - linear(v)
        s = adjoint(r)
        direction, size = s, s.square().sum()
        for _ in range(num_steps):
            step = linear(direction)
            length = _ratio(size, step.square().sum())
            v = v + length * direction
            r = r - length * step
            s = adjoint(r)
            before, size = size, s.square().sum()
            direction = s + _ratio(size, before) * direction
    return v


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the ratio, or zero where both have vanished."""
    return torch.where(denominator > 0, numerator / denominator.clamp_min(torch.finfo(denominator.dtype).tiny), 0.0)
