"""Maximisation of differentiable functions of tensors by SciPy's L-BFGS-B."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Maximum", "maximize"]

_WORST = 1e10  # stands for the negative function where it is not a number, plus the size of its first value
_ITERATIONS = 1000


class Maximum(NamedTuple):
    """The result of a search for a maximum.

    Attributes:
        point: where the search ended, ``(D,)``.
        value: the value of the function there.
        gradient_norm: the largest absolute component of the gradient there, without those at an active bound.
        converged: whether the search converged.
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
        function: a function of a vector ``(D,)`` that returns its value and its gradient.
        start: the vector where the search starts, ``(D,)``.
        lower: lower bounds, ``(D,)``, -inf where there is none; None for no bounds.

    Raises:
        ValueError: if the function is not finite at ``start``.

    Example:
        >>> maximum = maximize(lambda x: (-(x - 2).square().sum(), -2 * (x - 2)), torch.zeros(3))
        >>> maximum.point
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
    result = minimize(
        negative, start.double().cpu().numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    free = np.ones_like(result.x, dtype=bool) if lower is None else result.x > lower.double().cpu().numpy()
    norm = float(np.abs(result.jac[free]).max()) if free.any() else 0.0
    point = torch.as_tensor(result.x, dtype=start.dtype, device=start.device)
    # A line search that ends for lack of numerical precision has converged, too.
    converged = bool(result.success) or norm < 1e-3 * max(1.0, abs(float(result.fun)))
    return Maximum(point, -float(result.fun), norm, converged)
