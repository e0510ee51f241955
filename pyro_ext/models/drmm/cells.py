r"""Max pooling with a switch per cell, and its way back.

A map of size :math:`H_c \times W_c` is cut into cells of :math:`p \times p`, starting at the top left. Rows and columns
that are left over belong to no cell: pooling ignores them, and unpooling fills them with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SWITCHES", "Switch", "Switches", "as_maps", "max_cells", "mean_cells", "spread_cells", "unpool"]

Switch = Literal["relu", "leaky", "abs"]

SWITCHES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"relu": (0.0, 1.0), "leaky": (0.1, 1.0), "abs": (-1.0, 1.0)}
)
"""Name -> the factor a by which a unit that is off is multiplied, and that of a unit that is on."""

assert {*SWITCHES} == {*get_args(Switch)}


class Switches(NamedTuple):
    r"""The switches g of one layer: where in its cell each unit is rendered, and whether it is on.

    Args:
        position: the place t of each unit in its cell, counted row by row, int64 ``batch_shape + (K, H, W)`` with
            values in :math:`0 \dots p^2 - 1`.
        on: 1 where the unit is on and 0 where it is off, floating point, ``batch_shape + (K, H, W)``.
    """

    position: Tensor
    on: Tensor

    def rows(self, part: slice | Tensor) -> Switches:
        """Return the switches at a slice of the first dim, or at indices of any shape."""
        return Switches(self.position[part], self.on[part])


def as_maps(x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return maps ``batch_shape + (K, H, W)`` with a single batch dim, as convolutions need, and ``batch_shape``."""
    return x.reshape(-1, *x.shape[-3:]), tuple(x.shape[:-3])


def max_cells(v: Tensor, pool: int, factors: tuple[float, float]) -> tuple[Tensor, Switches]:
    r"""Maximise over positions and on/off in every cell.

    .. math::  x = \max_{t, a} a \, v_t, \qquad (\hat t, \hat a) = \arg\max_{t, a} a \, v_t,

    with one of the positions where several are equally good, and off where the maximum is zero.

    Args:
        v: maps, ``batch_shape + (K, H_c, W_c)``.
        pool: the height and the width p of a cell.
        factors: the values of a for a unit that is off and one that is on; the first must be less than the second,
            which must be positive.

    Returns:
        The maxima x and the switches, ``batch_shape + (K, H_c // p, W_c // p)``; gradients pass through x alone.

    Example:
        >>> x, g = max_cells(torch.tensor([[[1.0, 2.0, 9.0], [0.0, -3.0, 9.0]]]), 2, SWITCHES["relu"])
        >>> x, g.position, g.on
        (tensor([[[2.]]]), tensor([[[1]]]), tensor([[[1.]]]))
    """
    off, on = factors
    maps, batch_shape = as_maps(v)
    active = torch.where(maps > 0, on * maps, off * maps) if off else on * maps.relu()
    if pool == 1:
        x, position = active, torch.zeros_like(active, dtype=torch.long)
        best = maps
    else:
        x, flat = F.max_pool2d(active, pool, return_indices=True)
        position = _positions(maps.shape[-2], maps.shape[-1], pool, flat.device)[flat]
        best = x if off >= 0 else maps.flatten(-2).gather(-1, flat.flatten(-2)).view_as(x)
    switches = Switches(position, (best.detach() > 0).to(x.dtype))
    shape = (*batch_shape, *x.shape[-3:])
    return x.reshape(shape), Switches(*(part.reshape(shape) for part in switches))


def unpool(h: Tensor, position: Tensor, pool: int, size: tuple[int, int]) -> Tensor:
    """Put each value at its position in its cell, with zeros elsewhere.

    Args:
        h: the values, one for each cell, ``batch_shape + (K, H, W)``.
        position: the position of each value in its cell, int64, broadcastable with ``h``.
        pool: the height and the width p of a cell.
        size: the height and the width of the result.

    Returns:
        ``batch_shape + (K,) + size``.

    Example:
        >>> unpool(torch.tensor([[[5.0]]]), torch.tensor([[[2]]]), 2, (3, 3))
        tensor([[[0., 0., 0.],
                 [5., 0., 0.],
                 [0., 0., 0.]]])
    """
    h, position = torch.broadcast_tensors(h, position)
    if pool == 1:
        return h
    height, width = size
    corners, steps = _places(h.shape[-2], h.shape[-1], width, pool, h.device)
    empty = h.new_zeros((*h.shape[:-2], height * width))
    return empty.scatter(-1, (steps[position] + corners).flatten(-2), h.flatten(-2)).unflatten(-1, size)


@lru_cache(maxsize=64)
def _positions(height: int, width: int, pool: int, device: torch.device) -> Tensor:
    """Return the position in its cell of each place of a map, ``(height * width,)``."""
    with torch.inference_mode(False):  # it outlives the caller's mode
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        return (rows[:, None] % pool * pool + columns % pool).flatten()


@lru_cache(maxsize=64)
def _places(rows: int, columns: int, width: int, pool: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the place of each cell's corner in a map, ``(rows, columns)``, and the way from there to each position."""
    with torch.inference_mode(False):
        down, right = torch.arange(rows, device=device), torch.arange(columns, device=device)
        position = torch.arange(pool**2, device=device)
        return pool * (width * down[:, None] + right), position // pool * width + position % pool


def mean_cells(x: Tensor, size: int) -> Tensor:
    """Return the means of the cells, ``batch_shape + (K, H // size, W // size)``."""
    if size == 1:
        return x
    maps, batch_shape = as_maps(x)
    means = F.avg_pool2d(maps, size)
    return means.reshape(*batch_shape, *means.shape[-3:])


def spread_cells(h: Tensor, size: int, shape: tuple[int, int]) -> Tensor:
    r"""Return the adjoint of :func:`mean_cells`: every place of a cell gets :math:`h / \mathrm{size}^2`.

    Args:
        h: one value for each cell, ``batch_shape + (K, H, W)``.
        size: the height and the width of a cell.
        shape: the height and the width of the result, which is zero outside of all cells.
    """
    if size == 1:
        return h
    filled = (h / size**2).repeat_interleave(size, -1).repeat_interleave(size, -2)
    return F.pad(filled, (0, shape[1] - filled.shape[-1], 0, shape[0] - filled.shape[-2]))
