"""Maximisation by L-BFGS-B of functions whose gradients come from autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Maximum", "maximize"]

_WORST = 1e10  # what the search takes a value that is not a number for, relative to the first
_ITERATIONS = 1000


class Maximum(NamedTuple):
    """Where a search ended.

    Attributes:
        point: ``(D,)``.
        value: the value there.
        gradient_norm: the largest component of the gradient, without those held back by a bound.
        converged: whether the search ended by itself.
    """

    point: Tensor
    value: float
    gradient_norm: float
    converged: bool


def maximize(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, lower: Tensor | None = None
) -> Maximum:
    """Maximise a function from ``start``.

    Args:
        function: takes a vector ``(D,)``; returns a scalar and its gradient.
        start: where to begin, ``(D,)``.
        lower: bounds from below, ``(D,)``, -inf where there are none.

    Raises:
        ValueError: if the function is not finite at ``start``.

    Example:
        >>> found = maximize(lambda x: (-(x - 2).square().sum(), -2 * (x - 2)), torch.zeros(3))
        >>> found.point
        tensor([2., 2., 2.])
    """
    from scipy.optimize import minimize

    first = float(function(start)[0])
    if not np.isfinite(first):
        raise ValueError(f"the log-density to maximise is {first:g} where the search starts: check the model's data")

    def negative(x: Any) -> tuple[float, Any]:
        value, gradient = function(torch.as_tensor(x, dtype=start.dtype, device=start.device))
        if not (value.isfinite() and gradient.isfinite().all()):
            return _WORST + abs(first), np.zeros_like(x)
        return -float(value), -gradient.double().cpu().numpy()

    bounds = None if lower is None else [(b, None) for b in lower.double().cpu().tolist()]
    options = {"maxiter": _ITERATIONS, "maxfun": 10 * _ITERATIONS, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-7}
    found = minimize(
        negative, start.double().cpu().numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    free = np.ones_like(found.x, dtype=bool) if lower is None else found.x > lower.double().cpu().numpy()
    norm = float(np.abs(found.jac[free]).max()) if free.any() else 0.0
    point = torch.as_tensor(found.x, dtype=start.dtype, device=start.device)
    # A line search that ends because no digits are left has arrived, too.
    converged = bool(found.success) or norm < 1e-3 * max(1.0, abs(float(found.fun)))
    return Maximum(point, -float(found.fun), norm, converged)
