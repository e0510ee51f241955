"""Parent vectors from the splits of trees, rooted or unrooted, in canonical numbering."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.graph import SplitGraph

__all__ = ["Unrooted", "grown_trees", "unrooted_trees"]


class Unrooted(NamedTuple):
    """Unrooted trees and where they were rooted.

    Attributes:
        parents: the parent vectors, ``(T, 2 n - 2)``.
        root: the node below the edge that held the root, ``(T,)``.
    """

    parents: Tensor
    root: Tensor


def grown_trees(choices: Tensor, graph: SplitGraph) -> Tensor:
    """Build trees from their splits.

    Args:
        choices: the splits of each tree in preorder, ``(T, J)``.
        graph: the graph of subsplits that the splits belong to.

    Returns:
        Parent vectors ``(T, n + J)``: rooted trees where J = n - 1; where J = n - 2 the topmost split is that
        of all taxa but the first, leaf 0 is its parent, and the trees are unrooted.
    """
    n, num_choices = graph.num_taxa, choices.shape[1]
    slot = torch.arange(num_choices, device=choices.device)
    here = (n + slot).expand_as(choices)
    parents = choices.new_full((len(choices), n + num_choices), -1)
    for child in _children(choices, graph, n + slot + 1).node:
        parents.scatter_(1, child, here)
    if num_choices == n - 2:
        parents[:, n] = 0
    return parents


def unrooted_trees(choices: Tensor, graph: SplitGraph) -> Unrooted:
    """Build rooted trees from their splits and remove their roots.

    The clades that hold leaf 0 lie on the path from it to the root; the edges of that path are reversed. The numbering
    in preorder follows from the sizes of the parts at every node, summed from leaf 0 on.

    Args:
        choices: the splits of each rooted tree in preorder, ``(T, n - 1)``.
        graph: the graph of subsplits that the splits belong to.

    Returns:
        :class:`Unrooted`.
    """
    n, num_trees = graph.num_taxa, len(choices)
    slot = torch.arange(n - 1, device=choices.device)
    # the root's slot disappears: slot s becomes node n + s - 1, and the last column takes what belongs to no node
    children = _children(choices, graph, n + slot)
    first, second = children.node
    here = (n - 1 + slot).expand(num_trees, -1)
    on_path = torch.where(children.smallest[0] == 0, here, 2 * n - 2)
    parents = choices.new_zeros(num_trees, 2 * n - 1)
    parents.scatter_(1, first[:, 1:], here[:, 1:])
    parents.scatter_(1, second[:, 1:], here[:, 1:])
    parents.scatter_(1, on_path[:, 1:], first[:, 1:])
    parents.scatter_(1, second[:, :1], first[:, :1])
    step = _steps(children, on_path, graph.smallest_outside.index_select(0, choices.reshape(-1)).view_as(choices))
    return _renumbered(parents, step, second[:, 0], n)


class _Children(NamedTuple):
    """First and second child of every split of T trees: node, number of taxa and smallest taxon, ``(2, T, J)`` each."""

    node: Tensor
    size: Tensor
    smallest: Tensor


def _children(choices: Tensor, graph: SplitGraph, next_node: Tensor) -> _Children:
    """Look up the children; ``next_node`` is the node that follows the node of each slot, ``(J,)``."""
    flat = choices.reshape(-1)
    size, smallest = (x.index_select(1, flat).view(2, *choices.shape) for x in (graph.child_size, graph.smallest))
    inner = torch.stack([next_node.expand_as(choices), next_node - 1 + size[0]])
    return _Children(torch.where(size == 1, smallest, inner), size, smallest)


def _steps(children: _Children, on_path: Tensor, smallest_outside: Tensor) -> Tensor:
    """Return how far each node comes after its new parent in preorder, ``(T, 2 n - 1)``."""
    (first, second), size, smallest = children
    num_trees, num_choices = first.shape
    n, nowhere = num_choices + 1, 2 * num_choices
    turned = on_path < nowhere
    second_comes_first = smallest[1] < smallest_outside
    step = first.new_ones(num_trees, 2 * n - 1)
    after = torch.where(turned, torch.where(second_comes_first, 1, n - size[0] - size[1]), size[0])
    step.scatter_(1, second[:, 1:], after[:, 1:])
    # the new child of a node on the path is its former parent, or the root's other child
    above = torch.full_like(step, nowhere)
    above.scatter_(1, first, on_path)
    above[:, nowhere] = nowhere
    above.scatter_(1, first[:, :1], second[:, :1])
    beyond = _at(above, on_path[:, 1:] + _rows(above))
    step.scatter_(1, beyond, torch.where(second_comes_first, size[1], 1)[:, 1:])
    return step.scatter_(1, above[:, :1], 0)


def _renumbered(parents: Tensor, step: Tensor, below_root: Tensor, n: int) -> Unrooted:
    nowhere = 2 * n - 2
    row = _rows(parents)
    jump = torch.where(parents >= n, parents, nowhere) + row
    jump[:, nowhere:] = row + nowhere
    position = step.clone()
    position[:, nowhere] = 0
    for _ in range((n - 3).bit_length()):
        position = position + _at(position, jump)
        jump = _at(jump, jump)
    number = position + n
    number[:, :n] = torch.arange(n, device=parents.device)
    renumbered = torch.empty_like(parents)
    renumbered.scatter_(1, number[:, :nowhere], _at(number, parents[:, :nowhere] + row))
    renumbered = renumbered[:, :nowhere].contiguous()
    renumbered[:, 0] = -1
    return Unrooted(renumbered, _at(number, below_root.unsqueeze(-1) + row).squeeze(-1))


def _rows(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device).unsqueeze(-1) * x.shape[1]


def _at(x: Tensor, index: Tensor) -> Tensor:
    return x.view(-1).index_select(0, index.reshape(-1)).view(index.shape)
