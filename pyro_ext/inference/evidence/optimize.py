"""Maximisation of functions of tensors: SciPy's L-BFGS-B, and a search without gradients where they lead to an edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Maximum", "climb_along_edge", "is_stationary", "maximize"]

_WORST = 1e10  # stands for the negative function where it is not a number, plus the size of its first value
_ITERATIONS = 1000
_RESTARTS = 20
_FLAT = 1e-3  # a gradient below this, relative to the value of the function, counts as zero
_FIRST_STEP = 0.1
_LAST_STEP = {torch.float32: 1e-5, torch.float64: 1e-9}
_PROBE = {torch.float32: 1e-3, torch.float64: 1e-6}  # the distance at which an edge is looked for


class Maximum(NamedTuple):
    """The result of a search for a maximum.

    Attributes:
        point: where the search ended, ``(D,)``.
        value: the value of the function there.
        gradient_norm: the largest absolute component of the gradient there, without those at an active bound.
        converged: whether the search converged.
        at_edge: whether the point lies where the function jumps or bends, so that its gradient does not vanish.
    """

    point: Tensor
    value: float
    gradient_norm: float
    converged: bool
    at_edge: bool = False


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
    # After a line search that fails at an edge, SciPy returns the last point and not the best one.
    best: tuple[float, Any, Any] = (np.inf, None, None)

    def negative(x: Any) -> tuple[float, Any]:
        nonlocal best
        value, gradient = function(torch.as_tensor(x, dtype=start.dtype, device=start.device))
        if not (value.isfinite() and gradient.isfinite().all()):
            return _WORST + abs(first), np.zeros_like(x)
        found = (-float(value), x.copy(), -gradient.double().cpu().numpy())
        if best[1] is None or found[0] <= best[0]:
            best = found
        return found[0], found[2]

    bounds = None if lower is None else [(b, None) for b in lower.double().cpu().tolist()]
    options = {"maxiter": _ITERATIONS, "maxfun": 10 * _ITERATIONS, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-7}
    edge = None if lower is None else lower.double().cpu()
    x, value, norm, success = start.double().cpu().numpy(), np.inf, np.inf, False
    for _ in range(_RESTARTS):
        result = minimize(negative, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        before = value
        value, x, slope = (float(result.fun), result.x, result.jac) if result.fun <= best[0] else best
        norm = _largest(torch.as_tensor(slope), torch.as_tensor(x), edge)
        success = bool(result.success)
        # In float32 rounding ends line searches early; without their memory they go on.
        if is_stationary(norm, value) or not value < before:
            break
    point = torch.as_tensor(x, dtype=start.dtype, device=start.device)
    # A line search that ends for lack of numerical precision has converged, too.
    converged = success or is_stationary(norm, value)
    return Maximum(point, -value, norm, converged)


def is_stationary(gradient_norm: float, value: float) -> bool:
    """Return whether a gradient is as good as zero where the function has the given value."""
    return gradient_norm < _FLAT * max(1.0, abs(value))


def climb_along_edge(
    values: Callable[[Tensor], Tensor],
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    maximum: Maximum,
    lower: Tensor,
) -> Maximum:
    """Search on from a point whose gradient does not vanish, and say whether it lies at an edge.

    The function is tried at steps along the axes and along random directions; steps that lead no higher are halved.

    Args:
        values: a function of vectors ``(P, D)`` that returns one value for each, -inf or nan outside its domain.
        function: the function of a vector ``(D,)`` that returns its value and its gradient.
        maximum: the end of the search by gradients.
        lower: lower bounds, ``(D,)``, -inf where there is none.

    References:
        | Mesh adaptive direct search algorithms for constrained optimization (Audet & Dennis, 2006)
        | https://doi.org/10.1137/040603371

    Example:
        >>> values = lambda x: torch.where(x[:, 0] < 1, x[:, 0] - x[:, 1].square(), -torch.inf)
        >>> slope = lambda x: (values(x[None])[0], torch.stack([x.new_ones(()), -2 * x[1]]))
        >>> start = Maximum(torch.tensor([0.9, 0.3]), 0.81, 1.0, False)
        >>> found = climb_along_edge(values, slope, start, torch.full((2,), -9.0))
        >>> found.at_edge, found.value > 0.999
        (True, True)
    """
    point, value = maximum.point, maximum.value
    step, dim = _FIRST_STEP, len(point)
    axes = torch.eye(dim, dtype=point.dtype, device=point.device)
    last = _LAST_STEP.get(point.dtype, 1e-5)
    for _ in range(_ITERATIONS):
        if step < last:
            break
        turned = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64)).Q.to(point)
        moves = torch.cat([axes, -axes, turned, -turned])
        tried = torch.maximum(point + step * moves, lower)
        found = values(tried).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        if float(found.max()) > value:
            point, value, step = tried[found.argmax()], float(found.max()), min(2 * step, 1.0)
        else:
            step /= 2
    gradient = function(point)[1]
    norm = _largest(gradient, point, lower)
    if is_stationary(norm, value):
        return Maximum(point, value, norm, True)
    free = torch.where(point > lower, gradient, gradient.clamp_min(0.0))
    probe = _PROBE.get(point.dtype, 1e-3)
    ahead = float(values((point + probe * free / free.norm())[None])[0])
    at_edge = step < last and not ahead > value
    return Maximum(point, value, norm, at_edge, at_edge)


def _largest(gradient: Tensor, point: Tensor, lower: Tensor | None) -> float:
    """Return the largest absolute component of a gradient, without those at an active bound."""
    free = gradient.abs() if lower is None else gradient.abs()[point > lower]
    return float(free.max()) if len(free) else 0.0
