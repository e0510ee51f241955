"""Trees as arguments: a set of trees with its taxa and weights, or parent vectors alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.phylo.canonical import is_canonical
from pyro_ext.phylo.trees import TreeSet

__all__ = ["TreesAndWeights", "difference", "trees_and_weights"]


class TreesAndWeights(NamedTuple):
    """Trees given as arguments, checked and completed.

    Attributes:
        parents: canonical parent vectors, int64 ``(T, N)``.
        weights: the weights of the trees, nonnegative and with sum 1, float64 ``(T,)``.
        taxa: the sorted names of the taxa.
        rooted: whether the trees are rooted.
    """

    parents: Tensor
    weights: Tensor
    taxa: tuple[str, ...]
    rooted: bool


def trees_and_weights(
    trees: TreeSet | Tensor,
    weights: Tensor | Sequence[float] | None = None,
    rooted: bool | None = None,
    taxa: Sequence[str] | None = None,
) -> TreesAndWeights:
    """Read, check and complete trees given as arguments; trees of weight zero are left out.

    Args:
        trees: a set of trees, or canonical parent vectors ``(T, 2n - 2)``, rooted ones ``(T, 2n - 1)``.
        weights: the weights of the trees, ``(T,)``; if None, those of the set, or equal ones.
        rooted: whether the trees must be rooted or unrooted; None allows both.
        taxa: the names of the taxa; if None, those of the set, or "0", "1", ... in equal width.

    Raises:
        ValueError: if there is no tree, the trees are of the wrong kind or not canonical, or the weights are not
            nonnegative numbers with a positive sum, one for each tree.

    >>> trees_and_weights(torch.tensor([[-1, 3, 3, 0]])).taxa
    ('0', '1', '2')
    """
    if isinstance(trees, Tensor):
        parents, is_rooted = _parents(trees), bool(trees.shape[-1] % 2)
    else:
        parents, is_rooted = _parents(trees.parents), trees.rooted
        weights = trees.weights if weights is None else weights
        if taxa is not None and tuple(taxa) != tuple(trees.taxa):
            raise ValueError(f"taxa and trees {difference(taxa, trees.taxa)}: leave taxa out, or relabel the trees")
        taxa = trees.taxa
    if rooted is not None and rooted != is_rooted:
        kinds = ("unrooted", "rooted")
        raise ValueError(f"trees are {kinds[is_rooted]} but rooted={rooted}: convert them, or leave rooted out")
    names = _names(taxa, parents.shape[1] // 2 + 1)
    canonical = is_canonical(parents, is_rooted) if isinstance(trees, Tensor) else torch.ones(1, dtype=torch.bool)
    if not bool(canonical.all()):
        row = int((~canonical).nonzero()[0, 0])
        raise ValueError(f"trees[{row}] = {parents[row].tolist()} is not in canonical form: see canonicalize")
    share = _weights(weights, parents)
    used = share > 0
    return TreesAndWeights(parents[used], share[used], names, is_rooted)


def difference(first: Sequence[str], second: Sequence[str]) -> str:
    """Return words that say how two lists of taxa differ."""
    names = sorted(set(first) ^ set(second))
    return f"differ in taxa, such as {', '.join(map(repr, names[:3]))}" if names else "name taxa in another order"


def _parents(parents: Tensor) -> Tensor:
    if parents.dim() == 1:
        parents = parents.unsqueeze(0)
    if parents.dim() != 2 or parents.shape[0] == 0 or parents.shape[1] < 3:
        raise ValueError(
            f"trees has shape {tuple(parents.shape)}: give one or more trees, (T, 2n - 2) unrooted of three or more "
            "taxa or (T, 2n - 1) rooted"
        )
    if parents.dtype != torch.int64:
        raise ValueError(f"trees has dtype {parents.dtype}: parent vectors are int64")
    return parents


def _names(taxa: Sequence[str] | None, num_taxa: int) -> tuple[str, ...]:
    if taxa is None:
        width = len(str(num_taxa - 1))
        return tuple(str(i).zfill(width) for i in range(num_taxa))
    names = tuple(taxa)
    if len(names) != num_taxa or list(names) != sorted(set(names)):
        raise ValueError(
            f"taxa has {len(names)} names, such as {names[:3]}: give {num_taxa} different names in sorted order, for "
            f"trees of {num_taxa} taxa"
        )
    return names


def _weights(weights: Tensor | Sequence[float] | None, parents: Tensor) -> Tensor:
    if weights is None:
        return torch.full((len(parents),), 1 / len(parents), dtype=torch.float64, device=parents.device)
    w = torch.as_tensor(weights, dtype=torch.float64, device=parents.device)
    if w.shape != parents.shape[:1]:
        raise ValueError(f"weights has shape {tuple(w.shape)} but there are {len(parents)} trees: give one for each")
    if not bool((w >= 0).all() & w.isfinite().all()):
        raise ValueError(f"weights holds {float(w[~((w >= 0) & w.isfinite())][0])}: weights are finite and nonnegative")
    total = w.sum()
    if float(total) == 0:
        raise ValueError("weights are all zero: give some tree a positive weight")
    return w / total
