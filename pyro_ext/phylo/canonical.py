r"""Trees as parent vectors, one vector for each topology.

A binary tree over ``n`` taxa is an int64 vector: entry ``i`` is the parent of node ``i``, and -1 at the root.

1. Leaves are the nodes 0 to n - 1, in the order of the taxa's sorted names.
2. An unrooted tree has 2n - 2 nodes; taxon 0 serves as its root and has one child. A rooted tree has 2n - 1 nodes,
   and its root is node n.
3. Internal nodes are numbered from n in preorder, the child with the smallest leaf before the other.

Equal topologies have equal vectors. Edges are the nodes without the root: an unrooted tree's edge ``e`` lies above
node ``e + 1``, a rooted tree's above node ``e``, or ``e + 1`` from ``e = n`` on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.phylo._renumber import collapse_root, root_at_first_leaf, sort_by_depth
from pyro_ext.phylo._shapes import check_binary, check_parents, row_chunks
from pyro_ext.phylo._sweeps import plant_rooted, preorder
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["Trees", "canonicalize", "is_canonical", "num_taxa", "root_on_edge", "unroot"]


class Trees(NamedTuple):
    """Canonical trees, with the lengths of their edges if they have any.

    Attributes:
        parents: the parent of each node, ``batch_shape + (2n - 2,)``, or ``batch_shape + (2n - 1,)`` if rooted.
        branch_lengths: the length of each edge, of the same batch shape and with one entry less; None without lengths.
    """

    parents: Tensor
    branch_lengths: Tensor | None


def num_taxa(parents: Tensor, rooted: bool = False) -> int:
    """Return the number of taxa of canonical trees.

    Raises:
        ValueError: if no tree of this kind has so many nodes.

    Example:
        >>> num_taxa(torch.tensor([-1, 3, 3, 0]))
        3
    """
    check_parents(parents)
    nodes = parents.shape[-1]
    if nodes < (3 if rooted else 2) or nodes % 2 != rooted:
        kind, form = ("a rooted", "2n - 1") if rooted else ("an unrooted", "2n - 2")
        raise ValueError(f"parents has {nodes} nodes but {kind} binary tree has {form}: check `rooted`, got {rooted}")
    return nodes // 2 + 1


def canonicalize(parents: Tensor, branch_lengths: Tensor | None = None, *, rooted: bool = False) -> Trees:
    """Bring trees into canonical form, all at once.

    Args:
        parents: the parent of each node, integers ``batch_shape + (M,)``; leaves are the nodes 0 to n - 1, the other
            nodes may be numbered in any way, and the root has parent -1. Rooted trees have ``M = 2n - 1``. So may
            unrooted trees: their root, of degree two, is removed. With ``M = 2n - 2`` the root has three children, or
            is a leaf with one.
        branch_lengths: the length of the edge above each node, ``batch_shape + (M,)``; the entry of the root is
            ignored.
        rooted: whether the place of the root is part of the tree.

    Returns:
        :class:`Trees`.

    Raises:
        ValueError: if ``parents`` are no binary trees, or the shapes do not fit.

    Example:
        >>> canonicalize(torch.tensor([5, 4, 4, 5, 5, -1])).parents  # (0, (1, 2), 3)
        tensor([-1,  5,  5,  4,  0,  4])
        >>> canonicalize(torch.tensor([5, 4, 4, 5, 5, -1]), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.0])).branch_lengths
        tensor([0.2000, 0.3000, 0.4000, 0.1000, 0.5000])
    """
    check_parents(parents)
    if branch_lengths is not None and branch_lengths.shape != parents.shape:
        raise ValueError(
            f"branch_lengths has shape {tuple(branch_lengths.shape)} but parents {tuple(parents.shape)}: "
            "give one length per node, anything at the root"
        )
    batch_shape, nodes = parents.shape[:-1], parents.shape[-1]
    if nodes < 2 or (rooted and nodes % 2 == 0):
        raise ValueError(f"parents has {nodes} nodes, which no {'rooted ' * rooted}binary tree of two or more taxa has")
    flat = parents.reshape(-1, nodes).long()
    lengths = None if branch_lengths is None else branch_lengths.reshape(-1, nodes)
    parts = [_canonicalize(flat[rows], None if lengths is None else lengths[rows], rooted) for rows in row_chunks(flat)]
    new = torch.cat([part.parents for part in parts])
    new_lengths = None if lengths is None else torch.cat([_lengths(part) for part in parts])
    return Trees(
        new.reshape(*batch_shape, new.shape[-1]),
        None if new_lengths is None else new_lengths.reshape(*batch_shape, new.shape[-1] - 1),
    )


def is_canonical(parents: Tensor, rooted: bool = False) -> Tensor:
    """Return which trees are in canonical form, as a boolean tensor of ``batch_shape``.

    Args:
        parents: parent vectors, ``batch_shape + (2n - 2,)``, or ``batch_shape + (2n - 1,)`` if rooted.
        rooted: whether the trees are rooted.

    Raises:
        ValueError: if no tree of this kind has so many nodes.

    Example:
        >>> is_canonical(torch.tensor([[-1, 4, 4, 5, 0, 4], [-1, 5, 5, 4, 0, 4]]))
        tensor([False,  True])
    """
    num_taxa(parents, rooted)
    flat = parents.reshape(-1, parents.shape[-1]).long()
    parts = [_is_canonical(plant_rooted(flat[rows]) if rooted else flat[rows]) for rows in row_chunks(flat)]
    return torch.cat(parts).reshape(parents.shape[:-1])


def root_on_edge(
    parents: Tensor, edge: Tensor, branch_lengths: Tensor | None = None, *, fraction: float | Tensor = 0.5
) -> Trees:
    """Root unrooted trees on an edge.

    Args:
        parents: canonical unrooted trees, ``batch_shape + (2n - 2,)``.
        edge: the number of the edge, 0 to 2n - 4, of a shape that broadcasts against ``batch_shape``.
        branch_lengths: the lengths of the edges, ``batch_shape + (2n - 3,)``; None for trees without lengths.
        fraction: the fraction of the edge's length that lies beyond the root, as seen from taxon 0; 0.5 for the middle.

    Returns:
        Rooted :class:`Trees`.

    Raises:
        ValueError: if there is no such edge, or the shapes do not fit.

    Example:
        >>> root_on_edge(torch.tensor([-1, 3, 3, 0]), torch.arange(3)).parents
        tensor([[ 4,  3,  4, -1,  3],
                [ 4,  4,  3, -1,  3],
                [ 3,  4,  4, -1,  3]])
    """
    n = num_taxa(parents)
    if edge.numel() and not (0 <= int(edge.min()) and int(edge.max()) <= 2 * n - 4):
        raise ValueError(f"edge must lie in 0..{2 * n - 4} for {n} taxa, got {int(edge.min())}..{int(edge.max())}")
    batch_shape = broadcast_shapes(parents.shape[:-1], edge.shape)
    old = parents.expand(*batch_shape, -1)
    below = edge.expand(batch_shape).unsqueeze(-1) + 1
    # Numbers grow by 1 for the stem's leaf, whose parent is the new node on the edge; that node is the last.
    new = torch.cat([torch.full_like(below, 2 * n - 1), torch.where(old < 0, -1, old + 1)], -1)
    new = torch.cat([new, new.gather(-1, below + 1)], -1).scatter(-1, below + 1, 2 * n - 1)
    lengths = None
    if branch_lengths is not None:
        own = torch.cat([torch.zeros_like(branch_lengths[..., :1]), branch_lengths], -1).expand(*batch_shape, -1)
        on_edge = own.gather(-1, below)
        far = on_edge * fraction if not isinstance(fraction, Tensor) else on_edge * fraction.unsqueeze(-1)
        lengths = torch.cat([torch.zeros_like(far), own.scatter(-1, below, far), on_edge - far], -1)
    planted = canonicalize(new, lengths)
    return _pull_up(planted, n)


def unroot(parents: Tensor, branch_lengths: Tensor | None = None) -> Trees:
    """Remove the root of rooted trees.

    Args:
        parents: canonical rooted trees, ``batch_shape + (2n - 1,)``.
        branch_lengths: the lengths of the edges, ``batch_shape + (2n - 2,)``; the two edges at the root become one.

    Returns:
        Unrooted :class:`Trees`.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> unroot(torch.tensor([4, 4, 3, -1, 3]), torch.tensor([0.1, 0.2, 0.3, 0.4]))
        Trees(parents=tensor([-1,  3,  3,  0]), branch_lengths=tensor([0.2000, 0.7000, 0.1000]))
    """
    n = num_taxa(parents, rooted=True)
    if branch_lengths is not None:
        zero = torch.zeros_like(branch_lengths[..., :1])
        branch_lengths = torch.cat([branch_lengths[..., :n], zero, branch_lengths[..., n:]], -1)
    return canonicalize(parents, branch_lengths)


def _canonicalize(parents: Tensor, lengths: Tensor | None, rooted: bool) -> Trees:
    """Bring a chunk ``(T, M)`` of trees, small enough for the cache, into canonical form."""
    check_binary(parents)
    if rooted:
        parents = plant_rooted(parents)
        lengths = None if lengths is None else torch.cat([lengths[:, :1], lengths], -1)
    nodes = parents.shape[-1] // 2 * 2
    n = nodes // 2 + 1
    parents, index = sort_by_depth(parents, n)
    if lengths is not None and index is not None:
        lengths = lengths.gather(1, index)
    columns, own = parents.t().contiguous(), None if lengths is None else lengths.t().contiguous()
    if parents.shape[-1] != nodes:
        columns, own = collapse_root(columns, own, n)
    columns, own = root_at_first_leaf(columns, own, n)
    number = preorder(columns, n)
    new = torch.full_like(columns, -1)
    new[1:] = 0
    new.scatter_(0, number[1:], number.gather(0, columns[1:]))
    if own is not None:
        own = torch.empty_like(own).scatter_(0, number, own).t()[:, 1:]
    trees = Trees(new.t().contiguous(), own)
    return _pull_up(trees, n - 1) if rooted else trees


def _pull_up(planted: Trees, n: int) -> Trees:
    """Remove the stem: the rest of a canonical tree of n + 1 taxa is a canonical rooted tree of n taxa."""
    parents, lengths = planted
    if lengths is not None:
        lengths = torch.cat([lengths[..., :n], lengths[..., n + 1 :]], -1)
    return Trees(parents[..., 1:] - 1, lengths)


def _lengths(trees: Trees) -> Tensor:
    assert trees.branch_lengths is not None
    return trees.branch_lengths


def _is_canonical(planted: Tensor) -> Tensor:
    nodes = planted.shape[-1]
    n = nodes // 2 + 1
    if nodes == 2:
        return (planted == planted.new_tensor([-1, 0])).all(-1)
    number = torch.arange(nodes, device=planted.device)
    inside = (planted >= n) & (planted < torch.where(number < n, nodes, number))  # parents come before children
    inside[:, 0] = planted[:, 0] == -1
    inside[:, n] = planted[:, n] == 0
    right = inside.all(-1)
    usable = torch.where(right.unsqueeze(-1), planted, _caterpillar(n, planted))
    children = torch.zeros_like(usable).scatter_add_(-1, usable[:, 1:], torch.ones_like(usable[:, 1:]))
    binary = (children[:, n:] == 2).all(-1)
    return right & binary & (preorder(usable.t().contiguous(), n) == number.unsqueeze(-1)).all(0)


def _caterpillar(n: int, like: Tensor) -> Tensor:
    """Return a canonical tree, to stand in for vectors that are no trees."""
    internal = torch.arange(n, 2 * n - 2, device=like.device)
    return torch.cat([internal.new_tensor([-1]), internal, internal[-1:], internal.new_zeros(1), internal[:-1]])
