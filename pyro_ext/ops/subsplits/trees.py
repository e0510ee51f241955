"""The subsplits of a batch of trees as codes: the splits of each tree, and the sisters beside which they occur."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.relations import Relations, add_to_parents, sum_below

__all__ = ["Subsplits", "clade_splits", "node_sums", "rooted_subsplits", "unrooted_subsplits"]


class Subsplits(NamedTuple):
    """Subsplits of T trees, L for each tree, in the order that the sums over rootings expect.

    Attributes:
        sister: the code of the sister of the clade that is split, ``(T, L)``; 0 if there is none.
        focal: the code of the clade that is split, ``(T, L)``.
        child: the smaller of the codes of the clade's two parts, ``(T, L)``.
        used: False in places that are empty, ``(T, L)`` or broadcastable.
    """

    sister: Tensor
    focal: Tensor
    child: Tensor
    used: Tensor


def node_sums(leaves: Tensor, relations: Relations) -> Tensor:
    """Sum the values of the leaves below each node, such as codes or the bits of a clade.

    Args:
        leaves: the value of each leaf, int64 ``(n,)``.
        relations: parents and sisters of the nodes of T trees.

    Returns:
        ``(T, N)``; leaf 0 of an unrooted tree, which is its root, has its own value only.
    """
    num = len(leaves)
    below = leaves.expand(len(relations.parent), num)
    inner = add_to_parents(below, relations.parent[:, :num], relations.num_internal)
    return torch.cat([below, sum_below(inner, relations.jumps)[:, :-1]], -1)


def clade_splits(codes: Tensor, relations: Relations) -> Subsplits:
    """Return the split of every internal node, whatever its sister, L = I of them."""
    below = node_sums(codes, relations)
    focal = below[:, len(codes) :]
    return Subsplits(torch.zeros_like(focal), focal, _smaller_children(below, relations), _all(focal))


def rooted_subsplits(codes: Tensor, relations: Relations) -> Subsplits:
    """Return the subsplits of rooted trees: the root's, then those of all other internal nodes, L = n - 1."""
    below = node_sums(codes, relations)
    focal = below[:, len(codes) :]
    sister = _at(below, relations.sister[:, len(codes) :])
    sister = torch.cat([torch.zeros_like(sister[:, :1]), sister[:, 1:]], -1)
    return Subsplits(sister, focal, _smaller_children(below, relations), _all(focal))


def unrooted_subsplits(codes: Tensor, relations: Relations) -> Subsplits:
    r"""Return the subsplits of all rootings of unrooted trees, each once: 7 n - 18 and 2 n - 3 rootsplits.

    Seen from an edge above node i, with C the clade below it, U all other taxa, s its sister and p its parent,
    the L = 3 N + 3 I places are in order

    1. the rootsplit C | U for a root on this edge,
    2. the split of U beside C, into s and the taxa above p,
    3. the split of the taxa above p beside s, for a root on this edge or below i,

    for every node (none of them for leaf 0, only the first for its child), and

    4. the split of C beside U, for a root on this edge,
    5. the split of C beside s, for a root above p,
    6. the split of C beside the taxa above p, for a root on the edge above s or below it,

    for every internal node (only the first for leaf 0's child).
    """
    n = len(codes)
    below = node_sums(codes, relations)
    total = codes.sum()
    above = total - below
    sister, parent = _at(below, relations.sister), relations.parent
    above_parent = _at(_padded(above[:, n:]), parent)
    child, upper_child = _smaller_children(below, relations), torch.minimum(sister, above_parent)
    inner = below[:, n:]
    parts = (
        (torch.zeros_like(below), total.expand_as(below), torch.minimum(below, above)),
        (below, above, upper_child),
        (sister, above_parent, _at(_padded(upper_child[:, n:]), parent)),
        (above[:, n:], inner, child),
        (sister[:, n:], inner, child),
        (above_parent[:, n:], inner, child),
    )
    columns = (torch.cat(column, -1) for column in zip(*parts, strict=True))
    return Subsplits(next(columns), next(columns), next(columns), _used_places(parent, n))


def _used_places(parent: Tensor, num_taxa: int) -> Tensor:
    num_trees, num_nodes = parent.shape
    num_internal = num_nodes - num_taxa
    node = torch.arange(num_nodes, device=parent.device)
    edge, inside = node > 0, (node > 0) & (node != num_taxa)
    first = torch.arange(num_trees, device=parent.device).unsqueeze(-1) * (num_internal + 1)
    below_first = parent == first  # the parent's own upper neighbour is leaf 0, which is not split
    top = node[num_taxa:] > num_taxa
    parts = (edge, inside, inside & ~below_first, torch.ones_like(top), top, top)
    return torch.cat([part.expand(num_trees, -1) for part in parts], -1)


def _smaller_children(below: Tensor, relations: Relations) -> Tensor:
    """Return the smaller code of the two children of every internal node, ``(T, I)``."""
    smaller = torch.minimum(below, _at(below, relations.sister))
    slots = smaller.new_zeros(len(below) * (relations.num_internal + 1))
    slots = slots.scatter(0, relations.parent.reshape(-1), smaller.reshape(-1))  # both children write the same
    return slots.view(len(below), relations.num_internal + 1)[:, :-1]


def _at(x: Tensor, index: Tensor) -> Tensor:
    return x.reshape(-1).index_select(0, index.reshape(-1)).view_as(index)


def _padded(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_zeros(len(x), 1)], -1)


def _all(x: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.bool, device=x.device).expand_as(x)
