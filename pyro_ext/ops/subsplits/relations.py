"""Parents and sisters of the nodes in a batch of trees, and sums over the nodes below or above each node."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Relations", "add_to_parents", "relations_of", "sum_above", "sum_below"]


class Relations(NamedTuple):
    """The relations within T trees of N nodes, of which the last I are internal.

    Internal nodes are counted from 0 here; slot I stands for no internal node. All indices count through the
    flattened tensors of all trees, so that they serve ``index_select`` and ``index_add``.

    Attributes:
        parent: the parent of every node, ``(T, N)``, as an index into ``(T, I + 1)``.
        sister: the other child of the parent, ``(T, N)``, as an index into ``(T, N)``; the node itself without one.
        jumps: the ancestors 1, 2, 4, ... levels above every internal node, each ``(T, I + 1)``, as indices into
            ``(T, I + 1)``.
    """

    parent: Tensor
    sister: Tensor
    jumps: tuple[Tensor, ...]

    @property
    def num_internal(self) -> int:
        """The number I of internal nodes of a tree."""
        return int(self.jumps[0].shape[-1]) - 1


def relations_of(parents: Tensor, num_taxa: int) -> Relations:
    """Derive the relations from parent vectors, int64 ``(T, N)``, whose first ``num_taxa`` nodes are leaves.

    >>> relations_of(torch.tensor([[-1, 3, 3, 0]]), 3).sister
    tensor([[0, 2, 1, 3]])
    """
    num_trees, num_nodes = parents.shape
    num_internal = num_nodes - num_taxa
    row = torch.arange(num_trees, device=parents.device).unsqueeze(-1)
    node = torch.arange(num_nodes, device=parents.device)
    local = torch.where(parents >= num_taxa, parents - num_taxa, num_internal)
    parent = local + row * (num_internal + 1)
    here = node.expand_as(parents)
    children = add_to_parents(here, parent, num_internal)
    other = children.reshape(-1).index_select(0, parent.reshape(-1)).view_as(parents) - here
    sister = torch.where(local < num_internal, other, here) + row * num_nodes
    none = row * (num_internal + 1) + num_internal
    jump = torch.cat([parent[:, num_taxa:], none], -1)
    jumps = [jump]
    for _ in range((num_internal - 1).bit_length() - 1):  # twice the last jump spans the tallest tree
        jump = jump.reshape(-1).index_select(0, jump.reshape(-1)).view_as(jump)
        jumps.append(jump)
    return Relations(parent, sister, tuple(jumps))


def add_to_parents(x: Tensor, parent: Tensor, num_internal: int) -> Tensor:
    """Sum the values of each internal node's children.

    Args:
        x: the values of m nodes of each tree, ``(T, m)``.
        parent: the parents of these m nodes, as in :class:`Relations`, ``(T, m)``.
        num_internal: the number I of internal nodes of a tree.

    Returns:
        ``(T, I + 1)``; slot I holds the sum over nodes whose parent is no internal node.
    """
    sums = x.new_zeros(x.shape[0] * (num_internal + 1))
    return sums.index_add(0, parent.reshape(-1), x.reshape(-1)).view(-1, num_internal + 1)


def sum_below(x: Tensor, jumps: tuple[Tensor, ...]) -> Tensor:
    """Sum over every internal node and the internal nodes below it, in a logarithmic number of steps.

    Only additions are made, never a difference, so small values are not lost beside larger sums, -inf stays -inf, and
    the gradient is a sum of the same kind (:func:`sum_above`).

    Args:
        x: the values of the internal nodes, ``(T, I + 1)``; slot I is not used.
        jumps: the ancestors of every internal node, as in :class:`Relations`.

    Returns:
        ``(T, I + 1)``; slot I is meaningless.
    """
    for jump in jumps:
        x = x + torch.zeros_like(x).reshape(-1).index_add(0, jump.reshape(-1), x.reshape(-1)).view_as(x)
    return x


def sum_above(x: Tensor, jumps: tuple[Tensor, ...]) -> Tensor:
    """Sum over every internal node and its ancestors; ``x`` is ``(T, I + 1)``, 0 in slot I."""
    for jump in jumps:
        x = x + x.reshape(-1).index_select(0, jump.reshape(-1)).view_as(x)
    return x
