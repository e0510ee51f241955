"""Mutation matrices: do they fit a perfect phylogeny, and how far are they from one.

A mutation matrix has a row for each cell and a column for each mutation; an entry is 1 where the cell has the mutation.
Under infinite sites each mutation arises once and is never lost, so that the cells with it are a clade. A matrix has a
tree of this kind, a perfect phylogeny, if and only if no two columns show all of the gametes (1, 1), (1, 0) and (0, 1).

The functions take booleans, integers, or floating point numbers, of any batch shape. A missing entry of observed
matrices is 3, :data:`MISSING`, as in the files of this field. Functions that count do not look for it, since a device
would have to be waited for: :func:`fill_missing` comes before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.utils.checks import one_of

__all__ = [
    "MISSING",
    "conflicting_pairs",
    "count_conflicts",
    "fill_missing",
    "gamete_counts",
    "gamete_product",
    "is_conflict_free",
    "is_linear",
    "lexsort",
    "observation_nll",
]

MISSING = 3
"""The value of an entry that was not observed."""

_ENTRIES_PER_WORD = 31  # of two bits each, in a positive int64


def gamete_counts(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Count the gametes of each pair of columns.

    .. math::  n^{11}_{pq} = \sum_i A_{ip} A_{iq}, \qquad n^{10}_{pq} = \sum_i A_{ip} (1 - A_{iq}), \qquad
        n^{01}_{pq} = n^{10}_{qp}.

    Args:
        matrix: cells x mutations A, entries 0 and 1, ``batch_shape + (n, m)``. Entries between 0 and 1 are taken as
            probabilities of independent entries; for different columns the counts are then their expectations.

    Returns:
        The numbers of cells with mutations p and q, with p but not q, and with q but not p, each
        ``batch_shape + (m, m)``; int64, or of the type of ``matrix`` if that is a floating point type, whose gradients
        flow through.

    Raises:
        ValueError: if ``matrix`` has fewer than two dims.

    Example:
        >>> both, first, second = gamete_counts(torch.tensor([[1, 1], [1, 0], [1, 0], [0, 0]]))
        >>> both[0, 1], first[0, 1], second[0, 1]
        (tensor(1), tensor(2), tensor(0))
    """
    values = _numbers(matrix)
    both = values.mT @ values
    first = values.sum(-2).unsqueeze(-1) - both
    counts = (both, first, first.mT)
    if matrix.is_floating_point():
        return counts
    both, first, second = (count.long() for count in counts)
    return both, first, second


def conflicting_pairs(matrix: Tensor) -> Tensor:
    """Say which pairs of columns show all three gametes, so that no perfect phylogeny has both.

    Args:
        matrix: cells x mutations, entries 0 and 1, ``batch_shape + (n, m)``.

    Returns:
        bool, ``batch_shape + (m, m)``, symmetric, with False on the diagonal.

    Raises:
        ValueError: if ``matrix`` has fewer than two dims.

    Example:
        >>> conflicting_pairs(torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0]]))
        tensor([[False,  True, False],
                [ True, False, False],
                [False, False, False]])
    """
    both, first, second = gamete_counts(matrix)
    return (both > 0) & (first > 0) & (second > 0)


def count_conflicts(matrix: Tensor) -> Tensor:
    """Count the unordered pairs of columns that show all three gametes.

    Args:
        matrix: cells x mutations, entries 0 and 1, ``batch_shape + (n, m)``.

    Returns:
        int64, ``batch_shape``.

    Raises:
        ValueError: if ``matrix`` has fewer than two dims.

    Example:
        >>> count_conflicts(torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]]))
        tensor(3)
    """
    return conflicting_pairs(matrix).triu(1).sum((-2, -1))


def is_conflict_free(matrix: Tensor) -> Tensor:
    """Say which matrices have a perfect phylogeny, by the test of three gametes.

    Args:
        matrix: cells x mutations, entries 0 and 1, ``batch_shape + (n, m)``.

    Returns:
        bool, ``batch_shape``: True where no two columns show all three gametes. Of all 512 matrices 3 x 3 these are
        398, of all 65,536 matrices 4 x 4 they are 21,196.

    Raises:
        ValueError: if ``matrix`` has fewer than two dims.

    References:
        | Efficient algorithms for inferring evolutionary trees (Gusfield, 1991)
        | https://doi.org/10.1002/net.3230210104

    Example:
        >>> is_conflict_free(torch.tensor([[[1, 1], [1, 0], [0, 0]], [[1, 1], [1, 0], [0, 1]]]))
        tensor([ True, False])
    """
    return ~conflicting_pairs(matrix).flatten(-2).any(-1)


def is_linear(matrix: Tensor) -> Tensor:
    """Say which matrices have a perfect phylogeny without branching, a chain of mutations.

    The cells of each two mutations must contain one another. Such a matrix has no conflict.

    Args:
        matrix: cells x mutations, entries 0 and 1, ``batch_shape + (n, m)``.

    Returns:
        bool, ``batch_shape``. Of all 512 matrices 3 x 3 230 are linear, of all 65,536 matrices 4 x 4 6,902 are.

    Raises:
        ValueError: if ``matrix`` has fewer than two dims.

    Example:
        >>> is_linear(torch.tensor([[[1, 1], [1, 0], [0, 0]], [[1, 0], [0, 1], [0, 0]]]))
        tensor([ True, False])
    """
    _, first, second = gamete_counts(matrix)
    return ~((first > 0) & (second > 0)).flatten(-2).any(-1)


def gamete_product(matrix: Tensor) -> Tensor:
    r"""Return a graded cost of conflicts, 0 if and only if there are none.

    .. math::  \sum_{p < q} n^{11}_{pq} \, n^{10}_{pq} \, n^{01}_{pq}

    The sum is over unordered pairs of columns. The published code of Azer et al. sums over ordered ones, which is twice
    as much.

    Args:
        matrix: cells x mutations, entries 0 and 1, ``batch_shape + (n, m)``; entries between 0 and 1 are allowed.

    Returns:
        ``batch_shape``; int64, or of the type of ``matrix`` if that is a floating point type.

    Raises:
        ValueError: if ``matrix`` has fewer than two dims.

    References:
        | Tumor phylogeny topology inference via deep learning (Azer et al., 2020)
        | https://doi.org/10.1016/j.isci.2020.101655

    Example:
        >>> gamete_product(torch.tensor([[1, 1], [1, 0], [1, 0], [0, 1], [0, 0]]))
        tensor(2)
    """
    both, first, second = gamete_counts(matrix)
    return (both * first * second).triu(1).sum((-2, -1))


def fill_missing(matrix: Tensor, value: int = 0) -> Tensor:
    """Replace the missing entries of matrices.

    Args:
        matrix: entries 0, 1 and :data:`MISSING`, of any shape and type.
        value: what missing entries become: 0 as most programs of this field take them, or 1.

    Returns:
        A tensor of the same shape and type.

    Example:
        >>> fill_missing(torch.tensor([[0, 1, 3]]))
        tensor([[0, 1, 0]])
    """
    return matrix if matrix.dtype == torch.bool else torch.where(matrix == MISSING, value, matrix)


def lexsort(matrix: Tensor, dim: int = -1) -> Tensor:
    """Sort the columns of each matrix, or its rows, as words: the one that begins with the largest entries comes first.

    The order in which mutations are listed says nothing; networks need not learn that for sorted ones.

    Args:
        matrix: cells x mutations, entries 0, 1 and perhaps :data:`MISSING`, ``batch_shape + (n, m)``.
        dim: -1 sorts mutations, by the first cell, then the second, and so on; -2 sorts cells in the same way.

    Returns:
        The sorted matrices, of the same shape and type.

    Raises:
        ValueError: if ``matrix`` has fewer than two dims, or ``dim`` is neither -1 nor -2.

    Example:
        >>> lexsort(torch.tensor([[0, 1, 1], [1, 0, 1]]))
        tensor([[1, 1, 0],
                [1, 0, 1]])
        >>> lexsort(torch.tensor([[0, 1, 1], [1, 0, 1]]), -2)
        tensor([[1, 0, 1],
                [0, 1, 1]])
    """
    one_of("dim", dim, (-1, -2))
    _check_matrix(matrix)
    if dim == -2:
        return lexsort(matrix.mT).mT
    order = torch.arange(matrix.shape[-1], device=matrix.device).expand(*matrix.shape[:-2], -1)
    for rows in reversed(matrix.long().split(_ENTRIES_PER_WORD, -2)):  # least significant words first, by stable sorts
        power = torch.arange(rows.shape[-2] - 1, -1, -1, device=matrix.device) * 2
        words = (rows << power.unsqueeze(-1)).sum(-2).gather(-1, order)
        order = order.gather(-1, words.argsort(dim=-1, descending=True, stable=True))
    return matrix.gather(-1, order.unsqueeze(-2).expand_as(matrix))


def observation_nll(
    observed: Tensor, truth: Tensor, false_positive: float | Tensor, false_negative: float | Tensor
) -> Tensor:
    r"""Return the negative log-likelihood of observed matrices, in nats.

    .. math::  - \sum_{ij \text{ observed}} \log P(A'_{ij} \mid A_{ij}), \qquad P(1 \mid 0) = \alpha, \quad
        P(0 \mid 1) = \beta

    Args:
        observed: entries 0, 1 and :data:`MISSING`, which costs nothing, ``batch_shape + (n, m)``.
        truth: the true matrices, entries 0 and 1, of a shape that broadcasts.
        false_positive: the probability :math:`\alpha` that a 0 is observed as 1; a number or a tensor that broadcasts.
        false_negative: the probability :math:`\beta` that a 1 is observed as 0, in the same way.

    Returns:
        The common batch shape, of the type of ``truth`` if that is a floating point type, else of PyTorch's default
        type; infinite where a rate of 0 rules out what was observed.

    Example:
        >>> observation_nll(torch.tensor([[1, 0, 3]]), torch.tensor([[1, 1, 1]]), 0.002, 0.1)  # -log .9 - log .1
        tensor(2.4079)
    """
    dtype = truth.dtype if truth.is_floating_point() else torch.get_default_dtype()
    alpha, beta = (torch.as_tensor(rate, dtype=dtype, device=truth.device) for rate in (false_positive, false_negative))
    one = torch.where(truth == 1, 1 - beta, alpha)
    zero = torch.where(truth == 1, beta, 1 - alpha)
    cost = torch.where(observed == 1, one, torch.where(observed == 0, zero, 1)).log()
    return -cost.sum((-2, -1))


def _numbers(matrix: Tensor) -> Tensor:
    """Return the matrix as floating point numbers: there is no product of integer matrices on a GPU."""
    _check_matrix(matrix)
    if matrix.is_floating_point():
        return matrix
    return matrix.to(torch.float32 if matrix.shape[-2] < 2**24 else torch.float64)  # which are exact up to there


def _check_matrix(matrix: Tensor) -> None:
    if matrix.dim() < 2:
        raise ValueError(
            f"matrix must be cells x mutations, batch_shape + (n, m), got shape {tuple(matrix.shape)}; one row is "
            "matrix.unsqueeze(0)"
        )
