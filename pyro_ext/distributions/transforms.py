"""Differentiable bijections between unconstrained values and supports of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, transform_to
from torch.distributions import constraints as torch_constraints
from torch.distributions.transforms import Transform
from torch.nn.functional import logsigmoid

from pyro_ext.distributions import constraints
from pyro_ext.ops.birkhoff import break_sticks, sticks_of

__all__ = ["AdditiveLogRatio", "BirkhoffStickBreaking"]


class BirkhoffStickBreaking(Transform):
    r"""Stick-breaking in two dimensions, from ``(N - 1, N - 1)`` real numbers to doubly stochastic ``(N, N)`` matrices.

    Cell ``(m, n)`` lies at the fraction :math:`\beta = \mathrm{sigmoid}(z_{mn} + o_{mn})` of the interval of width
    ``w`` that the cells above and to the left leave it. The determinant is that of the map to the upper-left block,

    .. math::  \log |J| = \sum_{mn} \log w_{mn} + \log \beta_{mn} + \log (1 - \beta_{mn}).

    The offsets ``o`` make zeros the centre, all entries ``1 / N``. All is computed in float64 and returned in the
    type of the argument. Widths below float64's ``eps`` count as ``eps`` in the determinant: near the corners, at
    large ``|z|``, it is a truncated value in exchange for bounded gradients.

    Args:
        cache_size: 1 to remember the last pair of values, whose inverse and determinant then need no rounding.
        centered: whether to add the offsets; without them this is the map of the paper.

    References:
        | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
        | https://arxiv.org/abs/1710.09508

    >>> BirkhoffStickBreaking()(torch.zeros(2, 2))
    tensor([[0.3333, 0.3333, 0.3333],
            [0.3333, 0.3333, 0.3333],
            [0.3333, 0.3333, 0.3333]])
    """

    domain = torch_constraints.independent(torch_constraints.real, 2)
    codomain = constraints.doubly_stochastic
    bijective = True

    def __init__(self, cache_size: int = 0, centered: bool = True) -> None:
        super().__init__(cache_size=cache_size)
        self.centered = centered
        self._cached_determinant: tuple[Tensor, Tensor] | None = None

    def with_cache(self, cache_size: int = 1) -> BirkhoffStickBreaking:
        """Return the same map with another cache."""
        return self if self._cache_size == cache_size else BirkhoffStickBreaking(cache_size, self.centered)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BirkhoffStickBreaking) and self.centered == other.centered

    def __hash__(self) -> int:
        return hash((type(self), self.centered))

    def __repr__(self) -> str:
        return f"BirkhoffStickBreaking(cache_size={self._cache_size}, centered={self.centered})"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_cached_x_y": (None, None), "_cached_determinant": None}

    def _offset(self, z: Tensor) -> Tensor:
        """Return the logits of the centre's fractions, ``(N - 1, N - 1)``."""
        n = z.shape[-1]
        if not self.centered:
            return z.new_zeros(n, n)
        choices = torch.arange(n, 0, -1, dtype=z.dtype, device=z.device)  # others a cell's mass may still go to
        return -torch.minimum(choices.unsqueeze(-1), choices).log()

    def _call(self, x: Tensor) -> Tensor:
        self.forward_shape(x.shape)
        z = x.double()
        z = z + self._offset(z)
        y, width = break_sticks(z.sigmoid(), (-z).sigmoid())
        y = y.to(x.dtype)
        if self._cache_size:
            self._cached_determinant = y, _log_determinant(z, width).to(x.dtype)
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        if y.is_leaf and y.requires_grad:  # a cached value would cut it off from its gradient
            return self._inverse(y)
        x: Tensor = super()._inv_call(y)
        return x

    def _inverse(self, y: Tensor) -> Tensor:
        self.inverse_shape(y.shape)
        z, _ = _unbroken(y)
        return (z - self._offset(z)).to(y.dtype)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log-determinant of the map to the upper-left block, ``batch_shape``."""
        cached = self._cached_determinant
        if cached is not None and cached[0] is y and not (y.is_leaf and y.requires_grad):
            return cached[1]
        return _log_determinant(*_unbroken(y)).to(y.dtype)

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        """Return the shape of the matrices, one larger in both dims."""
        return _resized("x", shape, 1)

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        """Return the shape of the unconstrained values, one smaller in both dims."""
        return _resized("y", shape, -1)


def _unbroken(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of all fractions and the widths, in float64; zeros count as the smallest number of ``y``."""
    taken, left = sticks_of(y.double())
    tiny = torch.finfo(y.dtype).tiny
    return taken.clamp_min(tiny).log() - left.clamp_min(tiny).log(), taken + left


def _log_determinant(z: Tensor, width: Tensor) -> Tensor:
    floor = torch.finfo(width.dtype).eps
    return (width.clamp_min(floor).log() + logsigmoid(z) + logsigmoid(-z)).sum((-2, -1))


def _resized(name: str, shape: Sequence[int], by: int) -> torch.Size:
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] + by < 0:
        raise ValueError(f"{name} must have shape batch_shape + (N, N), got {tuple(shape)}: give square matrices")
    return torch.Size((*shape[:-2], shape[-2] + by, shape[-1] + by))


@biject_to.register(constraints.doubly_stochastic)
@transform_to.register(constraints.doubly_stochastic)
def _to_doubly_stochastic(constraint: Any) -> BirkhoffStickBreaking:
    return BirkhoffStickBreaking()


class AdditiveLogRatio(Transform):
    r"""From ``(K - 1,)`` real numbers to ``K`` log-weights, whose exponentials sum to 1: the log-ratio, inverted.

    .. math::  y = \log\mathrm{softmax}(x_1, \dots, x_{K-1}, 0), \qquad x_k = y_k - y_K.

    The density of :class:`~pyro_ext.distributions.ExpRelaxedOneHotCategorical` is with respect to Lebesgue measure on
    the differences :math:`y_k - y_K`, and so is the determinant here, which is 1. Weights of zero have no preimage.

    References:
        | The statistical analysis of compositional data (Aitchison, 1982), section 4.3
        | https://doi.org/10.1111/j.2517-6161.1982.tb01195.x

    >>> AdditiveLogRatio()(torch.zeros(2)).exp()
    tensor([0.3333, 0.3333, 0.3333])
    """

    domain = torch_constraints.real_vector
    codomain = constraints.log_simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdditiveLogRatio)

    def __hash__(self) -> int:
        return hash(type(self))

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(*x.shape[:-1], 1)], -1).log_softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., :-1] - y[..., -1:]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return zeros, ``batch_shape``: the determinant in the measure that densities of log-weights have."""
        return x.new_zeros(x.shape[:-1])

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        """Return the shape of the log-weights, one larger in the last dim."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        """Return the shape of the unconstrained values, one smaller in the last dim."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


@biject_to.register(constraints.log_simplex)
@transform_to.register(constraints.log_simplex)
def _to_log_simplex(constraint: Any) -> AdditiveLogRatio:
    return AdditiveLogRatio()
