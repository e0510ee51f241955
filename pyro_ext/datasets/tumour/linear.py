"""Mutation matrices without branching, with as many ones as given."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.utils.checks import positive_int

__all__ = ["shuffle", "simulate_linear"]


def simulate_linear(
    num_ones: Tensor, cells: int, mutations: int, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw matrices whose mutations are a chain, each with a given number of ones.

    The cells of each mutation contain those of the next. With w ones left for m' mutations, the number of cells of the
    next one is uniform between the least that leaves a solution and the largest,

    .. math::  c_j \sim \mathrm{Uniform}\{\lceil w / m' \rceil, \ldots, \min(c_{j-1}, w)\}.

    This is how the publication's program makes the class without branching; the orders of cells and mutations are
    random.

    Args:
        num_ones: the number of ones of each matrix, int64 ``(B,)``, from 0 to n m.
        cells: the number n of cells.
        mutations: the number m of mutations.
        generator: the random generator, on the device of ``num_ones``; torch's default generator if None.

    Returns:
        bool, ``(B, n, m)``.

    Raises:
        ValueError: if a number is out of range.

    References:
        | Tumor phylogeny topology inference via deep learning (Azer et al., 2020)
        | https://doi.org/10.1016/j.isci.2020.101655

    Example:
        >>> matrices = simulate_linear(torch.tensor([7, 0]), 4, 3, generator=torch.Generator().manual_seed(0))
        >>> matrices.sum((1, 2))
        tensor([7, 0])
    """
    positive_int("cells", cells)
    positive_int("mutations", mutations)
    if num_ones.dim() != 1 or num_ones.is_floating_point():
        raise ValueError(f"num_ones must be integers (B,), got {num_ones.dtype} of shape {tuple(num_ones.shape)}")
    if num_ones.numel() and not (int(num_ones.min()) >= 0 and int(num_ones.max()) <= cells * mutations):
        raise ValueError(f"num_ones must be 0 to {cells * mutations}, got up to {int(num_ones.max())}")
    left, largest = num_ones.clone(), torch.full_like(num_ones, cells)
    sizes = []
    for remaining in range(mutations, 0, -1):
        least, most = -(-left // remaining), torch.minimum(largest, left)
        u = torch.rand(left.shape, generator=generator, device=left.device, dtype=torch.float64)
        size = torch.minimum(least + (u * (most - least + 1)).long(), most)
        sizes.append(size)
        left, largest = left - size, size
    order = torch.arange(cells, device=num_ones.device)
    return shuffle(order.unsqueeze(-1) < torch.stack(sizes, -1).unsqueeze(-2), generator)


def shuffle(matrices: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Put the cells and the mutations of each matrix ``(B, n, m)`` into a random order of its own."""
    b, n, m = matrices.shape
    rows = torch.rand(b, n, 1, generator=generator, device=matrices.device, dtype=torch.float64).argsort(1)
    columns = torch.rand(b, 1, m, generator=generator, device=matrices.device, dtype=torch.float64).argsort(2)
    return matrices.gather(1, rows.expand(b, n, m)).gather(2, columns.expand(b, n, m))
