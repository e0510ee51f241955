"""The recursion of stick-breaking as a compiled kernel: the same operations in the same order as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_ext.ops.kernels import compiled, in_threads

__all__ = ["filled"]

_BLOCK = 32  # matrices of a batch that are filled together
_WORTH_A_THREAD = 1 << 18  # cells, which are filled in the time that it takes to start a thread


def filled(up: Tensor, down: Tensor, n: int) -> tuple[Tensor, ...]:
    """Return the parts of the matrix and the signs, as :func:`pyro_ext.ops._birkhoff_fill.fill` needs them.

    Args:
        up: the fractions of the intervals, ``(n * n, B)``.
        down: what is left of them, ``(n * n, B)``.
        n: the number of rows and columns without the last ones.
    """
    batch = up.shape[1]
    cells, widths, wide, tall = (torch.empty_like(up, memory_format=torch.contiguous_format) for _ in range(4))
    column, row, corner = (up.new_empty((size, batch)) for size in (n, n, 1))
    tensors = (up.contiguous(), down.contiguous(), cells, widths, column, row, corner, wide, tall)
    arrays = [tensor.numpy() for tensor in tensors]

    def part(start: int, stop: int) -> None:
        _fill(n, start, stop, *arrays)

    in_threads(part, batch, smallest=max(_BLOCK, _WORTH_A_THREAD // n**2))
    return cells, widths, column, row, corner, wide, tall


@compiled
def _fill(
    n: Any, start: Any, stop: Any, up: Any, down: Any, cells: Any, widths: Any, column: Any, row: Any, corner: Any,
    wide: Any, tall: Any,
) -> None:  # fmt: skip
    state = np.empty((3, n + 2, _BLOCK), up.dtype)
    r, c, mass = state[0], state[1], state[2]
    zero, one = up.dtype.type(0), up.dtype.type(1)
    for first in range(start, stop, _BLOCK):
        size = min(_BLOCK, stop - first)
        r[0, :size], c[0, :size], mass[0, :size], mass[1, :size] = one, one, n, n
        at = 0
        for s in range(2 * n - 1):
            number = s + 1 if s < n else 2 * n - 1 - s
            for i in range(number):
                for j in range(size):
                    b = first + j
                    right, below, a, d = mass[i, j], mass[i + 1, j], r[i, j], c[i, j]
                    surplus, excess = a - right, a - d
                    width = min(min(a, d), min(right, below))
                    more, less = up[at, b] * width, down[at, b] * width
                    positive, larger = max(surplus, zero), max(excess, zero)
                    cells[at, b], widths[at, b] = positive + more, width
                    wide[at, b] = one if surplus > 0 else zero
                    tall[at, b] = one if excess > 0 else zero
                    mass[i, j] = (positive - surplus) + more
                    r[i, j], c[i, j] = larger + less, (larger - excess) + less
                at += 1
            if s + 1 < n:
                for i in range(number, 0, -1):
                    mass[i, :size], c[i, :size] = mass[i - 1, :size], c[i - 1, :size]
                r[number, :size], c[0, :size] = one, one
                mass[0, :size] = mass[number + 1, :size] = n - s - 1
            else:
                column[s + 1 - n, first : first + size] = r[0, :size]
                row[s + 1 - n, first : first + size] = c[number - 1, :size]
                for i in range(number - 1):
                    r[i, :size] = r[i + 1, :size]
        corner[0, first : first + size] = mass[0, :size]
