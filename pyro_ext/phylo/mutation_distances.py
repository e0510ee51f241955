"""How alike two phylogenies of mutations are, and how certain clades of cells are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.mutations import gamete_counts

__all__ = [
    "CladeProbabilities",
    "ancestor_descendant_accuracy",
    "clade_distance",
    "clade_probabilities",
    "different_lineage_accuracy",
]


class CladeProbabilities(NamedTuple):
    """Clades of cells with their probabilities, the most probable first.

    Attributes:
        clades: which cells belong to each clade, bool ``(C, n)``.
        probabilities: the weight of the phylogenies that have each clade, ``(C,)``.
    """

    clades: Tensor
    probabilities: Tensor


def ancestor_descendant_accuracy(truth: Tensor, estimate: Tensor) -> Tensor:
    """Return the share of pairs of an ancestor and a descendant that an estimated phylogeny has, too.

    Mutation p is an ancestor of mutation q if the cells with q are some of those with p, but not all of them.

    Args:
        truth: the true matrices, entries 0 and 1, ``batch_shape + (n, m)``.
        estimate: matrices with the same mutations in the same order, of a shape that broadcasts.

    Returns:
        Of the common batch shape, from 0 to 1; 1 where the truth has no such pairs.

    Raises:
        ValueError: if the numbers of cells or mutations differ.

    Example:
        >>> truth = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
        >>> ancestor_descendant_accuracy(truth, torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0]]))
        tensor(0.6667)
    """
    _check_alike(truth, estimate)
    return _share(_ancestors(truth), _ancestors(estimate))


def different_lineage_accuracy(truth: Tensor, estimate: Tensor) -> Tensor:
    """Return the share of pairs of mutations on different lineages that an estimated phylogeny has, too.

    Two mutations are on different lineages if each is in some cell, and both are in none.

    Args:
        truth: the true matrices, entries 0 and 1, ``batch_shape + (n, m)``.
        estimate: matrices with the same mutations in the same order, of a shape that broadcasts.

    Returns:
        Of the common batch shape, from 0 to 1; 1 where the truth has no such pairs.

    Raises:
        ValueError: if the numbers of cells or mutations differ.

    Example:
        >>> truth = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> different_lineage_accuracy(truth, torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]]))
        tensor(0.6667)
    """
    _check_alike(truth, estimate)
    return _share(_apart(truth), _apart(estimate))


def clade_distance(first: Tensor, second: Tensor) -> Tensor:
    """Count the clades that only one of two perfect phylogenies has, the distance of Robinson and Foulds.

    A clade is the set of cells with a mutation; single cells, all cells and no cells count as none, mutations of the
    same cells as one. For phylogenies whose trees are binary this is :func:`.robinson_foulds` of rooted trees.

    Args:
        first: matrices without conflicts, entries 0 and 1, ``batch_shape + (n, m)``.
        second: matrices of the same cells in the same order, of any number of mutations and a batch shape that
            broadcasts.

    Returns:
        int64, of the common batch shape.

    Raises:
        ValueError: if the numbers of cells differ.

    References:
        | Comparison of phylogenetic trees (Robinson and Foulds, 1981)
        | https://doi.org/10.1016/0025-5564(81)90043-2

    Example:
        >>> first = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0]])
        >>> clade_distance(first, torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]))
        tensor(2)
    """
    if first.shape[-2] != second.shape[-2]:
        raise ValueError(f"first has {first.shape[-2]} cells but second {second.shape[-2]}: give the same cells")
    ours, theirs = (matrix.bool().mT for matrix in (first, second))
    return _only_first(ours, theirs) + _only_first(theirs, ours)


def clade_probabilities(matrices: Tensor, weights: Tensor | None = None) -> CladeProbabilities:
    """Return how probable clades of cells are, by phylogenies that were sampled.

    Args:
        matrices: S sampled matrices without conflicts, entries 0 and 1, ``(S, n, m)``.
        weights: the weights of the samples, at least 0, of any sum, ``(S,)``; None for equal ones.

    Returns:
        The clades of two to n - 1 cells, each with the share of the samples that have it.

    Raises:
        ValueError: if there are no samples, or the weights do not fit.

    Example:
        >>> samples = torch.tensor([[[1, 0], [1, 0], [0, 1]], [[1, 0], [1, 1], [0, 1]], [[1, 1], [1, 1], [0, 0]]])
        >>> clade_probabilities(samples[[0, 2]])
        CladeProbabilities(clades=tensor([[ True,  True, False]]), probabilities=tensor([1.]))
    """
    if matrices.dim() != 3 or len(matrices) == 0:
        raise ValueError(f"matrices must be samples (S, n, m), one at least, got shape {tuple(matrices.shape)}")
    if weights is None:
        weights = torch.ones(len(matrices), device=matrices.device)
    total = weights.sum()
    if weights.shape != matrices.shape[:1] or bool((weights < 0).any()) or not bool((total > 0) & total.isfinite()):
        raise ValueError(
            f"weights must be {len(matrices)} finite numbers of at least 0, not all 0, got shape {tuple(weights.shape)}"
        )
    columns = matrices.bool().mT
    sample, place = (_counted(columns) & ~_repeated(columns)).nonzero(as_tuple=True)
    clades, group = torch.unique(columns[sample, place], dim=0, return_inverse=True)
    probabilities = weights.new_zeros(len(clades)).index_add(0, group, weights[sample] / total)
    order = probabilities.argsort(descending=True, stable=True)
    return CladeProbabilities(clades[order], probabilities[order])


def _ancestors(matrix: Tensor) -> Tensor:
    """Say which mutation p is an ancestor of which q, bool ``batch_shape + (m, m)``."""
    both, first, second = gamete_counts(matrix)
    return (both > 0) & (first > 0) & (second == 0)


def _apart(matrix: Tensor) -> Tensor:
    both, first, second = gamete_counts(matrix)
    return (both == 0) & (first > 0) & (second > 0)


def _share(true: Tensor, estimated: Tensor) -> Tensor:
    kept, number = ((pairs).sum((-2, -1)).to(torch.get_default_dtype()) for pairs in (true & estimated, true))
    number, kept = torch.broadcast_tensors(number, kept)
    return torch.where(number == 0, 1, kept / number.clamp(min=1))


def _check_alike(truth: Tensor, estimate: Tensor) -> None:
    if truth.shape[-2:] != estimate.shape[-2:]:
        raise ValueError(
            f"truth and estimate must be of the same cells and mutations, got {tuple(truth.shape[-2:])} and "
            f"{tuple(estimate.shape[-2:])}"
        )


def _counted(columns: Tensor) -> Tensor:
    """Say which clades, bool ``batch_shape + (m, n)``, have more than one cell and not all of them."""
    size = columns.sum(-1)
    return (size > 1) & (size < columns.shape[-1])


def _equal(first: Tensor, second: Tensor) -> Tensor:
    """Say which clades of one phylogeny equal which of another, bool ``batch_shape + (m, m')``."""
    ones = first.float() @ second.float().mT
    return (ones == first.sum(-1, keepdim=True)) & (ones == second.sum(-1).unsqueeze(-2))


def _repeated(columns: Tensor) -> Tensor:
    """Say which clades are those of a column before."""
    return _equal(columns, columns).tril(-1).any(-1)


def _only_first(ours: Tensor, theirs: Tensor) -> Tensor:
    own = _counted(ours) & ~_repeated(ours)
    return (own & ~_equal(ours, theirs).any(-1)).sum(-1)
