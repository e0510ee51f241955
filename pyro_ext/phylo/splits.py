"""The splits of unrooted trees and the clades of rooted ones, and the distance that counts different splits."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.phylo._shapes import row_chunks
from pyro_ext.phylo._sweeps import plant_rooted, pointers, subtrees
from pyro_ext.phylo.canonical import num_taxa
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["WORD_BITS", "children", "robinson_foulds", "split_words", "splits"]

WORD_BITS = 63
"""Taxa per int64 word of :func:`split_words`; the sign bit stays clear."""


def split_words(parents: Tensor, rooted: bool = False) -> Tensor:
    """Return the taxa below each edge as bits: those on the side without taxon 0, or the clade if rooted.

    Args:
        parents: canonical trees, ``batch_shape + (2n - 2,)``, or ``batch_shape + (2n - 1,)`` if rooted.
        rooted: whether the trees are rooted.

    Returns:
        int64, ``batch_shape + (edges, words)``, edges as in the branch lengths; taxon ``i`` is bit ``i % 63`` of word
        ``i // 63``.

    Raises:
        ValueError: if no tree of this kind has so many nodes.

    Example:
        >>> split_words(torch.tensor([-1, 5, 5, 4, 0, 4])).squeeze(-1)  # 1, 2, 3, 123, 12
        tensor([ 2,  4,  8, 14,  6])
    """
    n = num_taxa(parents, rooted)
    flat = parents.reshape(-1, parents.shape[-1]).long()
    parts = [
        _planted_words(plant_rooted(flat[rows]) if rooted else flat[rows], n + rooted, int(rooted))
        for rows in row_chunks(flat)
    ]
    words = torch.cat(parts)[:, 1:]
    if rooted:
        words = torch.cat([words[:, :n], words[:, n + 1 :]], 1)  # without the root
    return words.reshape(*parents.shape[:-1], *words.shape[1:])


def splits(parents: Tensor, rooted: bool = False) -> Tensor:
    """Return which taxa are below each edge: the side without taxon 0, or the clade if rooted.

    Args:
        parents: canonical trees, ``batch_shape + (2n - 2,)``, or ``batch_shape + (2n - 1,)`` if rooted.
        rooted: whether the trees are rooted.

    Returns:
        Booleans, ``batch_shape + (edges, n)``, edges as in the branch lengths.

    Raises:
        ValueError: if no tree of this kind has so many nodes.

    Example:
        >>> splits(torch.tensor([-1, 5, 5, 4, 0, 4]))[3:].int()
        tensor([[0, 1, 1, 1],
                [0, 1, 1, 0]], dtype=torch.int32)
    """
    n = num_taxa(parents, rooted)
    bit = torch.arange(WORD_BITS, device=parents.device)
    return (split_words(parents, rooted).unsqueeze(-1) >> bit & 1).bool().flatten(-2)[..., :n]


def children(parents: Tensor, rooted: bool = False) -> Tensor:
    """Return the two children of each internal node, the one with the smallest leaf first.

    Args:
        parents: canonical trees, ``batch_shape + (2n - 2,)``, or ``batch_shape + (2n - 1,)`` if rooted.
        rooted: whether the trees are rooted.

    Returns:
        int64, ``batch_shape + (internal nodes, 2)``.

    Raises:
        ValueError: if no tree of this kind has so many nodes.

    Example:
        >>> children(torch.tensor([-1, 5, 5, 4, 0, 4]))
        tensor([[5, 3],
                [1, 2]])
    """
    n = num_taxa(parents, rooted)
    flat = parents.reshape(-1, parents.shape[-1]).long()
    parts = [
        _planted_children(plant_rooted(flat[rows]) if rooted else flat[rows], n + rooted) for rows in row_chunks(flat)
    ]
    return (torch.cat(parts) - int(rooted)).reshape(*parents.shape[:-1], n - 2 + rooted, 2)


def robinson_foulds(first: Tensor, second: Tensor, rooted: bool = False) -> Tensor:
    """Count the splits, or clades if rooted, that only one of two trees has.

    Args:
        first: canonical trees, ``batch_shape + (2n - 2,)``, or ``batch_shape + (2n - 1,)`` if rooted.
        second: canonical trees over the same taxa, of a batch shape that broadcasts against that of ``first``.
        rooted: whether the trees are rooted.

    Returns:
        int64, of the common batch shape: 0 for equal trees, and at most 2n - 6, or 2n - 4 if rooted.

    Raises:
        ValueError: if the numbers of nodes differ or fit no tree of this kind.

    References:
        | Comparison of phylogenetic trees (Robinson and Foulds, 1981)
        | https://doi.org/10.1016/0025-5564(81)90043-2

    Example:
        >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4], [-1, 5, 5, 4, 0, 4]])
        >>> robinson_foulds(trees.unsqueeze(1), trees)
        tensor([[0, 2, 2],
                [2, 0, 2],
                [2, 2, 0]])
    """
    n = num_taxa(first, rooted)
    if second.shape[-1] != first.shape[-1]:
        raise ValueError(
            f"first has {first.shape[-1]} nodes but second {second.shape[-1]}: give trees over the same taxa"
        )
    inner = slice(n, None)  # without the edges of the leaves and the edge above node n, which all trees have
    words = [split_words(trees, rooted)[..., inner, :] for trees in (first, second)]
    rows = torch.cat([part.flatten(0, -2) for part in words])
    names = rows.unique(dim=0, return_inverse=True)[1] if rows.shape[-1] > 1 else rows[:, 0]
    ours, theirs = (
        part.view(own.shape[:-1])
        for part, own in zip(names.split([len(w.flatten(0, -2)) for w in words]), words, strict=True)
    )
    batch_shape = broadcast_shapes(ours.shape[:-1], theirs.shape[:-1])
    both = torch.cat([ours.expand(*batch_shape, -1), theirs.expand(*batch_shape, -1)], -1).sort(-1).values
    return both.shape[-1] - 2 * (both[..., 1:] == both[..., :-1]).sum(-1)


def _planted_words(parents: Tensor, n: int, first: int) -> Tensor:
    """Add up the bits below the nodes of planted trees ``(T, 2n - 2)``; leaf ``first`` is taxon 0."""
    num_trees, nodes = parents.shape
    columns = parents.t().contiguous()
    taxa = torch.arange(n - first, device=parents.device)
    words = parents.new_zeros(nodes, num_trees, -(-(n - first) // WORD_BITS))
    words[taxa + first, :, taxa // WORD_BITS] = (1 << taxa % WORD_BITS).unsqueeze(-1)
    flat, above = words.flatten(0, 1), pointers(columns)
    flat.index_add_(0, above[1:n].flatten(), words[1:n].flatten(0, 1).clone())
    for node in range(nodes - 1, n, -1):  # children are disjoint: adding is uniting
        flat.index_add_(0, above[node], words[node].clone())
    return words.transpose(0, 1)


def _planted_children(parents: Tensor, n: int) -> Tensor:
    if n == 2:
        return parents.new_zeros(len(parents), 0, 2)
    columns = parents.t().contiguous()
    low = subtrees(columns, n).low
    later = torch.arange(1, len(columns), device=parents.device)
    later = later[later != n]
    above = columns[later]
    slot = 2 * (above - n) + (low[later] != low.gather(0, above))
    pairs = slot.new_empty(2 * (n - 2), slot.shape[1])
    return pairs.scatter_(0, slot, later.unsqueeze(-1).expand_as(slot)).t().unflatten(1, (-1, 2))
