"""What a denoised matrix costs: the conflicts left in it, and how improbable the flips are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.ops.mutations import MISSING, gamete_counts, gamete_product

__all__ = ["PADDING", "Observed", "flip_changes", "matrix_cost", "observe", "prefix_costs"]

PADDING = -1
"""Stands in the rows and columns that make matrices of different sizes one batch."""


class Observed(NamedTuple):
    """Observed matrices, taken apart.

    Args:
        matrix: entries 0 and 1 in the type of the rates, ``(..., n, m)``; 0 for padding and where nothing was read.
        present: what is no padding, bool ``(..., n, m)``.
        missing: what was not read, bool ``(..., n, m)``.
        rates: the probability that an entry differs from the true one, given what was read: the rate of false positives
            where that is 1, that of false negatives where it is 0, 1/2 where nothing was read; ``(..., n, m)``.
        start: the negative log-likelihood of what was read if every entry is true, in nats, ``(...)``.
        changes: what a flip adds to it, ``(..., n, m)``; 0 where nothing was read.
    """

    matrix: Tensor
    present: Tensor
    missing: Tensor
    rates: Tensor
    start: Tensor
    changes: Tensor


def observe(x: Tensor, false_positive: Tensor, false_negative: Tensor) -> Observed:
    r"""Take observed matrices apart.

    With the rates :math:`\alpha` of false positives and :math:`\beta` of false negatives an observed matrix X has, for
    true entries A, the negative log-likelihood

    .. math::  - N_{00} \log(1 - \alpha) - N_{10} \log \alpha - N_{01} \log \beta - N_{11} \log(1 - \beta),

    where :math:`N_{xa}` entries were read as x and are a. An entry that was not read says nothing: it costs nothing,
    flipped or not, as if it had been read with error rates of 1/2.

    Args:
        x: cells x mutations, ``(..., n, m)``; 1 present, 0 absent, 3 missing, -1 padding, of any type.
        false_positive: the rate of false positives, ``()`` or anything that broadcasts against ``(..., n, m)``.
        false_negative: the rate of false negatives, likewise.

    Example:
        >>> seen = observe(torch.tensor([[1, 0, 3]]), torch.tensor(0.01), torch.tensor(0.1))
        >>> seen.rates, seen.changes.round(decimals=2)  # log(.9 / .01), log(.99 / .1)
        (tensor([[0.0100, 0.1000, 0.5000]]), tensor([[4.5000, 2.2900, 0.0000]]))
    """
    missing, present = x == MISSING, x != PADDING
    ones = x == 1
    read = present & ~missing
    rates = torch.where(ones, false_positive, false_negative)
    right = torch.where(ones, torch.log1p(-false_negative), torch.log1p(-false_positive))
    start = -(right * read).sum((-2, -1))
    changes = (right - rates.log()).masked_fill(~read, 0.0)
    return Observed(ones.to(rates.dtype), present, missing, rates.masked_fill(~read, 0.5), start, changes)


def matrix_cost(matrix: Tensor, observed: Observed, gamma: float) -> Tensor:
    r"""Return the cost of matrices as denoised ones.

    .. math::  \gamma \, \mathrm{NLL} + \sum_{p \ne q} n^{11}_{pq} \, n^{10}_{pq} \, n^{01}_{pq}

    with the negative log-likelihood of what was observed, and the gametes of all ordered pairs of columns, each pair
    counted twice, as published.

    Args:
        matrix: cells x mutations, entries 0 and 1, ``(..., n, m)``.
        observed: what was observed, of shapes that broadcast.
        gamma: the weight of a nat.
    """
    flipped = matrix != observed.matrix
    likelihood = observed.start + (flipped * observed.changes).sum((-2, -1))
    return gamma * likelihood + 2 * gamete_product(matrix)


def prefix_costs(positions: Tensor, observed: Observed, gamma: float) -> Tensor:
    """Return the cost after each number of flips.

    Args:
        positions: the entries flipped, row times m plus column, in order, int64 ``(..., L)``; one that comes again is
            not flipped back.
        observed: what was observed, ``(..., n, m)``, of shapes that broadcast against those of ``positions``.
        gamma: the weight of a nat.

    Returns:
        ``(..., L + 1)``: the cost after 0, 1, ..., L flips.

    Example:
        >>> x = torch.tensor([[1, 1], [1, 0], [0, 1]])
        >>> seen = observe(x, torch.tensor(0.01), torch.tensor(0.1))
        >>> prefix_costs(torch.tensor([3, 0]), seen, gamma=0.04).round(decimals=2)
        tensor([2.0200, 0.1100, 0.2900])
    """
    n, m = observed.matrix.shape[-2:]
    flips = F.one_hot(positions, n * m).cumsum(-2).clamp(max=1).unflatten(-1, (n, m))
    flips = torch.cat([torch.zeros_like(flips[..., :1, :, :]), flips], -3).to(observed.matrix.dtype)
    start = observed.matrix.unsqueeze(-3)
    likelihood = observed.start.unsqueeze(-1) + (flips * observed.changes.unsqueeze(-3)).sum((-2, -1))
    return gamma * likelihood + 2 * gamete_product((start - flips).abs())


def flip_changes(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what flipping each single entry does to the conflicts of a matrix, and its part in them.

    Args:
        matrix: cells x mutations, entries 0 and 1 of a floating point type, ``(..., n, m)``.

    Returns:
        For each entry, ``(..., n, m)``: the change of the sum over ordered pairs of columns of the products of their
        gametes, if it were flipped; the change of the number of unordered pairs in conflict; and the number of triples
        of cells that are a conflict of the entry's column with another one, the entry's cell among them.
    """
    both, first, second = gamete_counts(matrix)
    other = 1 - torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    product, pairs = both * first * second, _all_there(both, first, second)

    def spread(with_other: Tensor, without_other: Tensor) -> Tensor:
        """Return, for each entry of a column p, the sum over columns q by whether its cell has q."""
        with_other, without_other = with_other * other, without_other * other
        return matrix @ (with_other - without_other).mT + without_other.sum(-1).unsqueeze(-2)

    # A flip to 1 turns the gamete (0, 1) into (1, 1) where the cell has the other mutation, and (0, 0) into (1, 0)
    # where not; a flip to 0 turns (1, 1) into (0, 1), or (1, 0) into (0, 0).
    on = ((both + 1, first, second - 1), (both, first + 1, second))
    off = ((both - 1, first, second + 1), (both, first - 1, second))
    present = matrix > 0
    graded = torch.where(
        present,
        spread(*(_product(*counts) - product for counts in off)),
        spread(*(_product(*counts) - product for counts in on)),
    )
    counted = torch.where(
        present,
        spread(*(_all_there(*counts) - pairs for counts in off)),
        spread(*(_all_there(*counts) - pairs for counts in on)),
    )
    involved = torch.where(present, spread(first * second, both * second), spread(both * first, torch.zeros_like(both)))
    return 2 * graded, counted, involved


def _product(both: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return both * first * second


def _all_there(both: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return ((both > 0) & (first > 0) & (second > 0)).to(both.dtype)
