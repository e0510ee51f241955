"""The recursion over anti-diagonals that stick-breaking uses, with its backward pass written by hand.

Cells are laid out anti-diagonal after anti-diagonal, rows increasing, as the first dim; the batch is the second.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from pyro_ext.ops.kernels import use_kernels

__all__ = ["Filled", "fill"]


class Filled(NamedTuple):
    """A matrix ``(n + 1, n + 1)`` in parts.

    Attributes:
        cells: its upper-left block by anti-diagonals, ``(n * n, B)``.
        widths: the length of each of these cells' intervals, ``(n * n, B)``.
        column: the last column without its last cell, ``(n, B)``.
        row: the last row without its last cell, ``(n, B)``.
        corner: the last cell, ``(1, B)``.
    """

    cells: Tensor
    widths: Tensor
    column: Tensor
    row: Tensor
    corner: Tensor


def fill(up: Tensor, down: Tensor) -> Filled:
    """Place all cells at the fractions ``up`` of their intervals, ``down`` being the rest; both ``(n * n, B)``."""
    return Filled(*_Fill.apply(up, down)[:5])


class _Fill(Function):
    """Four times faster than autograd through the recursion; the backward pass can itself be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(up: Tensor, down: Tensor) -> tuple[Tensor, ...]:
        if use_kernels(up, down) and up.dtype in (torch.float32, torch.float64) and up.dtype == down.dtype:
            from pyro_ext.ops._birkhoff_kernel import filled  # Numba is imported at the first call

            return filled(up.detach(), down.detach(), _sizes(up)[1])
        return _forward(up, down)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[5:])
        ctx.save_for_backward(*inputs, output[1], *output[5:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return _backward(*ctx.saved_tensors, *grads[:5])


def _forward(up: Tensor, down: Tensor) -> tuple[Tensor, ...]:
    """Return the parts of :class:`Filled`, and the signs ``(n * n, B)`` that say which bounds were met.

    On an anti-diagonal the vectors run over its rows: ``r`` and ``c`` are what is left of row and column, and ``mass``
    holds the masses of the blocks that start on the next anti-diagonal, one more than there are cells.
    """
    sizes, n = _sizes(up)
    one = torch.ones_like(up[:1])
    r, c, mass = one, one, torch.cat([n * one, n * one])
    cells, widths, column, row, wide, tall = [], [], [], [], [], []
    for s, (beta, rest) in enumerate(zip(up.split(sizes), down.split(sizes), strict=True)):
        right, below = mass[:-1], mass[1:]
        surplus, excess = r - right, r - c  # equal to c - below and to right - below
        width = torch.minimum(torch.minimum(r, c), torch.minimum(right, below))
        more, less = beta * width, rest * width
        positive, larger = surplus.relu(), excess.relu()
        cells.append(positive + more)
        widths.append(width)
        wide.append((surplus > 0).to(up.dtype))
        tall.append((excess > 0).to(up.dtype))
        mass = (positive - surplus) + more  # the bracket is the negative part, without rounding
        r, c = larger + less, (larger - excess) + less
        if s + 1 < n:  # one more row and one more column begin
            r, c = torch.cat([r, one]), torch.cat([one, c])
            edge = (n - s - 1) * one
            mass = torch.cat([edge, mass, edge])
        else:  # the topmost row and the leftmost column are full but for their last cells
            column.append(r[:1])
            row.append(c[-1:])
            r, c = r[1:], c[:-1]
    lists = (cells, widths, column, row, [mass], wide, tall)
    return tuple(torch.cat(parts) for parts in lists)


def _backward(
    up: Tensor,
    down: Tensor,
    widths: Tensor,
    wide: Tensor,
    tall: Tensor,
    d_cells: Tensor,
    d_widths: Tensor,
    d_column: Tensor,
    d_row: Tensor,
    d_corner: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients in ``up`` and ``down``: the recursion from last to first, each ``d_x`` that of ``x``."""
    sizes, n = _sizes(up)
    parts = [x.split(sizes) for x in (up, down, widths, wide, tall, d_cells, d_widths)]
    d_up, d_down = [], []
    nothing = torch.zeros_like(d_corner)
    d_r, d_c, d_mass = d_corner[:0], d_corner[:0], d_corner
    for s in reversed(range(2 * n - 1)):
        if s + 1 < n:
            d_r, d_c, d_mass = d_r[:-1], d_c[1:], d_mass[1:-1]
        else:
            place = s + 1 - n
            d_r = torch.cat([d_column[place : place + 1], d_r])
            d_c = torch.cat([d_c, d_row[place : place + 1]])
        beta, rest, width, sign_s, sign_e, d_cell, d_width = (part[s] for part in parts)
        d_more, d_less = d_cell + d_mass, d_r + d_c
        d_up.append(d_more * width)
        d_down.append(d_less * width)
        d_width = d_width + d_more * beta + d_less * rest
        d_surplus, d_excess = sign_s * d_more - d_mass, sign_e * d_less - d_c
        # the width is r, c, right or below by the signs of surplus and excess
        d_lower = sign_s * d_width
        d_upper = d_width - d_lower
        d_below, d_across = sign_e * d_lower, sign_e * d_upper
        d_right = d_lower - d_below - d_surplus
        d_r = d_surplus + d_excess + (d_upper - d_across)
        d_c = d_across - d_excess
        d_mass = torch.cat([d_right, nothing]) + torch.cat([nothing, d_below])
    return torch.cat(d_up[::-1]), torch.cat(d_down[::-1])


def _sizes(up: Tensor) -> tuple[list[int], int]:
    """Return the lengths of the anti-diagonals and the size of the block."""
    n = round(up.shape[0] ** 0.5)
    return [min(s + 1, 2 * n - 1 - s) for s in range(2 * n - 1)], n
