"""Doubly stochastic matrices filled cell by cell: stick-breaking in two dimensions, and its inverse."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops._birkhoff_fill import fill
from pyro_ext.ops._shapes import check_square

__all__ = ["Sticks", "break_sticks", "sticks_of"]


class Sticks(NamedTuple):
    """Where each cell of the upper-left block lies within its bounds.

    Attributes:
        taken: how far above its lower bound the cell is, ``batch_shape + (N - 1, N - 1)``.
        left: how far below its upper bound the cell is, ``batch_shape + (N - 1, N - 1)``; both are
            nonnegative, and their sum is the width of the interval.
    """

    taken: Tensor
    left: Tensor


def break_sticks(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    r"""Fill a doubly stochastic matrix, each cell placed within the bounds that the earlier ones leave it.

    With ``r`` and ``c`` what is left of the cell's row and column, ``T`` the mass below its row's start and right
    of its column, and ``D`` that below its row and right of its column's start, cell ``(m, n)`` has bounds
    :math:`\max(0, r - T)` and :math:`\min(r, c)`, at a distance of

    .. math::  w = \min(r, c, T, D), \qquad x = \max(0, r - T) + \beta w.

    A cell depends on its upper-left block only, so whole anti-diagonals are filled at once, in ``2 N - 3`` steps;
    nothing is ever negative.

    Args:
        up: the fraction :math:`\beta` of its interval at which each cell lies, in [0, 1],
            ``batch_shape + (N - 1, N - 1)``.
        down: :math:`1 - \beta`, of the same shape, given separately so that small values of either stay precise.

    Returns:
        The matrices ``batch_shape + (N, N)``, and the widths ``w``, ``batch_shape + (N - 1, N - 1)``: the
        log-determinant of the map from ``up`` to the upper-left block is the sum of their logs.

    Raises:
        ValueError: if ``up`` is no batch of square matrices or the shapes differ.

    References:
        | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018),
        | section 3, https://arxiv.org/abs/1710.09508; order and form of the bounds are those of this module

    >>> half = torch.full((2, 2), 0.5)
    >>> break_sticks(half, half)[0]
    tensor([[0.5000, 0.2500, 0.2500],
            [0.2500, 0.3750, 0.3750],
            [0.2500, 0.3750, 0.3750]])
    """
    check_square("up", up, least=0)
    if up.shape != down.shape:
        raise ValueError(f"down has shape {tuple(down.shape)} but up {tuple(up.shape)}: give both fractions of a cell")
    batch_shape, n = up.shape[:-2], up.shape[-1]
    if n == 0:
        return up.new_ones(*batch_shape, 1, 1), up
    order = _order(n, up.device)
    filled = fill(*(part.reshape(-1, n * n).t().index_select(0, order.skew) for part in (up, down)))
    width, cell = (part.index_select(0, order.unskew).t().reshape(up.shape) for part in (filled.widths, filled.cells))
    last_column, last_row, corner = (part.t().reshape(*batch_shape, -1) for part in filled[2:])
    upper = torch.cat([cell, last_column.unsqueeze(-1)], -1)
    lower = torch.cat([last_row, corner], -1)
    return torch.cat([upper, lower.unsqueeze(-2)], -2), width


def sticks_of(x: Tensor) -> Sticks:
    r"""Return the parts from which :func:`break_sticks` builds doubly stochastic matrices: its inverse.

    With ``a`` the cell, ``b`` the rest of its row, ``c`` the rest of its column and ``d`` the mass of the block to
    its lower right, ``taken`` is :math:`\min(a, d)` and ``left`` is :math:`\min(b, c)`. Sums alone are formed, so
    small entries keep their relative precision.

    Args:
        x: doubly stochastic matrices, ``batch_shape + (N, N)``.

    Returns:
        :class:`Sticks`; ``taken / (taken + left)`` is the fraction.

    Raises:
        ValueError: if ``x`` is no batch of square matrices.

    >>> sticks_of(torch.eye(3))
    Sticks(taken=tensor([[1., 0.], [0., 1.]]), left=tensor([[0., 0.], [0., 0.]]))
    """
    check_square("x", x)
    rows, columns = _suffix_sums(x, -1), _suffix_sums(x, -2)
    blocks = _suffix_sums(rows, -2)
    taken = torch.minimum(x[..., :-1, :-1], blocks[..., 1:, 1:])
    return Sticks(taken, torch.minimum(rows[..., :-1, 1:], columns[..., 1:, :-1]))


def _suffix_sums(x: Tensor, dim: int) -> Tensor:
    return x.flip(dim).cumsum(dim).flip(dim)


class _Order(NamedTuple):
    """The cells of an ``n x n`` block by anti-diagonals, rows increasing, and back."""

    skew: Tensor
    unskew: Tensor


@lru_cache(maxsize=64)
def _order(n: int, device: torch.device) -> _Order:
    with torch.inference_mode(False):  # these outlive the caller's mode
        row = torch.arange(n, device=device)
        skew = (row.unsqueeze(1) + row).flatten().sort(stable=True).indices
        return _Order(skew, skew.argsort())
