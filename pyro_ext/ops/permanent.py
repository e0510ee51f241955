r"""Permanents and matchings of small matrices, exactly, by a dynamic program over subsets of columns.

With ``Z(S)`` the total weight of the matchings of the first ``|S|`` rows with the columns ``S``,

.. math::  Z(S) = \sum_{j \in S} e^{L_{|S|, j}} Z(S \setminus \{j\}), \qquad Z(\emptyset) = 1,

the permanent of :math:`e^L` is ``Z`` of all columns: :math:`N 2^{N-1}` terms instead of ``N!``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops._log_space import floored, unfloored
from pyro_ext.ops._shapes import check_square

__all__ = ["MOST_ROWS", "column_chooser", "log_permanent", "sample_matchings"]

MOST_ROWS = 18
"""The largest matrices: at 18 rows a matrix takes some 50 MB and, on one core, a second or two."""


def log_permanent(log_potentials: Tensor) -> Tensor:
    r"""Return the log of the permanent of ``exp(log_potentials)``; its gradient is the marginals of the matching.

    Args:
        log_potentials: logs of the entries, ``batch_shape + (N, N)`` with N at most 18; -inf for zeros.

    Returns:
        ``batch_shape``, in the type of ``log_potentials``, computed in float64; -inf where no matching is left.

    Raises:
        ValueError: if the matrices are not square or too large.

    References:
        | Dynamic programming treatment of the travelling salesman problem (Bellman, 1962), whose recursion over
        | subsets this is, https://doi.org/10.1145/321105.321111

    >>> log_permanent(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).log()).exp()
    tensor(10.0000)
    """
    flat, n = _checked(log_potentials)
    total = _log_weights(flat, n)[-1]
    return unfloored(total.squeeze(0)).reshape(log_potentials.shape[:-2]).to(log_potentials.dtype)


def column_chooser(log_potentials: Tensor) -> Callable[[Tensor], Tensor]:
    r"""Return the conditional distributions by which a matching is drawn row by row, from the last row to the first.

    The probability of a column is proportional to its own weight times the total weight of the matchings that the rows
    before can form with the remaining columns.

    Args:
        log_potentials: log-weights of the cells, ``batch_shape + (N, N)`` with N at most 18; each matrix must have a
            matching of positive weight.

    Returns:
        A function from the columns of the last t rows, int64 ``batch_shape + (m, t)``, the last row first, to the
        normalised log-probabilities of the column of the row before them, float64 ``batch_shape + (m, N)``. After
        impossible columns it returns the uniform distribution.

    Raises:
        ValueError: if the matrices are not square or too large.

    >>> choose = column_chooser(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).log())
    >>> choose(torch.empty((1, 0), dtype=torch.int64)).exp()
    tensor([[0.6000, 0.4000]], dtype=torch.float64)
    """
    flat, n = _checked(log_potentials)
    weights = torch.cat(_log_weights(flat, n)).index_select(0, _lattice(n, flat.device).place)  # by bit mask
    bits = 1 << torch.arange(n, device=flat.device)
    matrix = torch.arange(len(flat), device=flat.device).reshape(-1, 1, 1)

    def choose(columns: Tensor) -> Tensor:
        chosen = columns.reshape(len(flat), *columns.shape[-2:])
        remaining = ((1 << n) - 1 - (1 << chosen).sum(-1, keepdim=True)).clamp_min(0)
        free = (remaining & bits) != 0
        row = flat[:, n - 1 - columns.shape[-1]].unsqueeze(-2)
        score = unfloored((row + weights[remaining ^ (bits * free), matrix]).masked_fill(~free, -torch.inf))
        # after an impossible choice there may be no possible one
        score = score.masked_fill((score == -torch.inf).all(-1, keepdim=True), 0)
        return score.log_softmax(-1).reshape(*columns.shape[:-1], n)

    return choose


@torch.no_grad()
def sample_matchings(log_potentials: Tensor, num_samples: int) -> Tensor:
    r"""Draw permutations with probability proportional to :math:`\exp \sum_i L_{i, \pi_i}`, independently and exactly.

    Args:
        log_potentials: log-weights of the cells, ``batch_shape + (N, N)`` with N at most 18; each matrix must have a
            matching of positive weight.
        num_samples: the number of permutations to draw for each matrix.

    Returns:
        The column of every row, int64 ``(num_samples,) + batch_shape + (N,)``.

    Raises:
        ValueError: if the matrices are not square or too large.

    >>> sample_matchings(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), 3)
    tensor([[0, 1], [0, 1], [0, 1]])
    """
    choose = column_chooser(log_potentials)
    *batch_shape, n, _ = log_potentials.shape
    columns = torch.empty((*batch_shape, num_samples, 0), dtype=torch.int64, device=log_potentials.device)
    for _ in range(n):
        noisy = choose(columns)
        noisy += _gumbel(noisy)
        columns = torch.cat([columns, noisy.argmax(-1, keepdim=True)], -1)
    return columns.flip(-1).movedim(-2, 0)


def _gumbel(like: Tensor) -> Tensor:
    return -torch.empty_like(like).exponential_().clamp_min_(torch.finfo(like.dtype).tiny).log_()


def _checked(log_potentials: Tensor) -> tuple[Tensor, int]:
    """Return the floored float64 matrices ``(B, N, N)`` and N."""
    check_square("log_potentials", log_potentials)
    n = log_potentials.shape[-1]
    if n > MOST_ROWS:
        raise ValueError(
            f"log_potentials has {n} rows: the exact sum over subsets is made for at most {MOST_ROWS}, "
            "use a relaxed distribution of permutations instead"
        )
    return floored(log_potentials.double()).reshape(-1, n, n), n


def _log_weights(flat: Tensor, n: int) -> list[Tensor]:
    """Return ``log Z`` of all subsets, level by level, ``(number of subsets of that size, B)``."""
    rows = flat.permute(1, 2, 0)
    levels = [torch.zeros_like(rows[0, :1])]
    for row, level in zip(rows, _lattice(n, flat.device).levels, strict=True):
        terms = row.index_select(0, level.member) + levels[-1].index_select(0, level.without)
        levels.append(terms.view(*level.shape, -1).logsumexp(1))
    return levels


class _Level(NamedTuple):
    """The subsets of one size, in the order of their bit masks.

    Attributes:
        member: the elements of each subset, flattened row by row, ``(subsets * size,)``.
        without: the position of the subset without that element in the level below, laid out like ``member``.
        shape: the number of subsets and their size.
    """

    member: Tensor
    without: Tensor
    shape: tuple[int, int]


class _Lattice(NamedTuple):
    """The levels of sizes ``1..n``, and the position of each bit mask in all levels joined, ``(2 ** n,)``."""

    levels: tuple[_Level, ...]
    place: Tensor


@lru_cache(maxsize=32)
def _lattice(n: int, device: torch.device) -> _Lattice:
    with torch.inference_mode(False):  # these outlive the caller's mode
        masks, element = torch.arange(1 << n, device=device), torch.arange(n, device=device)
        holds = (masks.unsqueeze(-1) >> element) & 1
        size = holds.sum(-1)
        order = size.sort(stable=True).indices
        place = torch.empty_like(order)
        place[order] = masks
        counts = [math.comb(n, k) for k in range(n + 1)]
        starts = [sum(counts[:k]) for k in range(n + 1)]
        subsets = order.split(counts)
        levels = []
        for k in range(1, n + 1):
            bits = _single_bits(subsets[k], k)
            below = subsets[k].unsqueeze(-1) ^ bits
            member = bits.double().log2().long()  # exact for powers of two
            levels.append(_Level(member.flatten(), place[below.flatten()] - starts[k - 1], (counts[k], k)))
        return _Lattice(tuple(levels), place)


def _single_bits(masks: Tensor, k: int) -> Tensor:
    """Return the k bits of each mask, the lowest first, ``(C, k)``: of known number, so that nothing waits for it."""
    bits = masks.new_empty(len(masks), k)
    for i in range(k):
        bits[:, i] = masks & -masks
        masks = masks ^ bits[:, i]
    return bits
