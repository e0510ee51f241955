"""Free real coordinates of values on a continuous support, in which densities have no bounds to pile up at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions import constraints as torch_constraints

from pyro_ext.distributions import constraints

__all__ = ["free_coordinates"]


def free_coordinates(support: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return unconstrained coordinates of values and the log-volume that maps their density.

    Log-ratios of weights on the simplex; elsewhere what :func:`torch.distributions.biject_to` returns. The volume of
    doubly stochastic matrices is found by automatic differentiation: the transform's own, part of their densities,
    would cancel from whatever is tested.

    Args:
        support: a constraint of dimension ``event_dim``.
        value: values within it, ``(n,) + batch_shape + event_shape``.

    Returns:
        ``(n,) + batch_shape + (D,)``, in which entries that are the same for all ``n`` play no part, and
        ``(n,) + batch_shape``, to be added to the log-density of the values.

    Raises:
        AssertionError: if no coordinates are known for the support.

    >>> y, log_volume = free_coordinates(dist.constraints.simplex, torch.tensor([[0.5, 0.25, 0.25]]))
    >>> y, log_volume.exp()
    (tensor([[0.6931, 0.0000, 0.0000]]), tensor([0.0312]))
    """
    if support is torch_constraints.simplex:
        log_weights = value.log()
        return _log_ratios(log_weights), log_weights.masked_fill(value == 0, 0).sum(-1)
    if support is constraints.log_simplex:  # its density is one of log-ratios
        return _log_ratios(value), value.new_zeros(value.shape[:-1])
    try:
        to_support = biject_to(support)
    except NotImplementedError:
        raise AssertionError(
            f"no coordinates are known for the support {support}: give coordinates, or skip goodness_of_fit"
        ) from None
    y = to_support.inv(value)
    if support is constraints.doubly_stochastic:
        return y.flatten(-2), _log_volume_of_blocks(to_support, y)
    log_volume = to_support.log_abs_det_jacobian(y, value)
    event_dim = to_support.domain.event_dim
    return (y.flatten(y.dim() - event_dim) if event_dim else y.unsqueeze(-1)), log_volume


def _log_volume_of_blocks(to_support: Any, y: Tensor) -> Tensor:
    """Return the log-determinant of the map from ``(..., M, M)`` to the upper-left block of matrices."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        block = to_support(y)[..., :-1, :-1].flatten(-2)
        # each matrix depends on its own coordinates only, so one backward pass gives a row of all Jacobians
        rows = [torch.autograd.grad(cell.sum(), y, retain_graph=True)[0].flatten(-2) for cell in block.unbind(-1)]
    if not rows:
        return y.new_zeros(y.shape[:-2])
    return torch.linalg.slogdet(torch.stack(rows, -2))[1]


def _log_ratios(log_weights: Tensor) -> Tensor:
    """Return log-weights less the last one that is not zero, so that this one becomes constant."""
    possible = log_weights.isfinite()
    last = possible.flip(-1).to(log_weights.dtype).argmax(-1, keepdim=True)
    ratios = log_weights - log_weights.gather(-1, possible.shape[-1] - 1 - last)
    return ratios.masked_fill(~possible, 0)
