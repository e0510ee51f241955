"""Sweeps over the nodes of a batch of trees: one step per node, all trees at once.

Here a batch is held node by node, ``(M, T)`` for ``T`` trees of ``M`` nodes, and is *planted*: leaf 0 is the root and
has one child, and every internal node but that child comes after its parent. A rooted tree is planted by a stem with a
leaf of its own, so that one code serves both kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.kernels import in_threads, use_kernels

__all__ = ["Subtrees", "plant_rooted", "pointers", "preorder", "subtrees"]

_SMALL = 4096  # entries below which an operation of PyTorch for each node takes a few milliseconds at most
_FEW = 16  # trees for which a loop in Python is faster than an operation for each node


class Subtrees(NamedTuple):
    """Sums over the subtree of each node, all ``(M, T)``.

    Attributes:
        above: the index of the parent's entry in a flattened ``(M, T)``.
        low: the smallest leaf of the subtree, the node itself included; meaningless for the root.
        size: the number of internal nodes of the subtree, the node itself included.
    """

    above: Tensor
    low: Tensor
    size: Tensor


def plant_rooted(parents: Tensor) -> Tensor:
    """Put a stem under rooted trees: ``(T, 2n - 1)`` becomes ``(T, 2n)``, all nodes moved up by one."""
    return torch.cat([parents.new_full((len(parents), 1), -1), parents + 1], -1)


def subtrees(parents: Tensor, num_leaves: int) -> Subtrees:
    """Sum up the subtrees of planted trees, from the last internal node to the first.

    Args:
        parents: planted trees, node by node, ``(M, T)``.
        num_leaves: how many of the M nodes are leaves.
    """
    num_nodes, num_trees = parents.shape
    if _by_kernel(parents):
        from pyro_ext.phylo._sweep_kernels import sum_subtrees

        low, size = torch.empty_like(parents), torch.empty_like(parents)
        _each_tree(sum_subtrees, num_trees, parents, num_leaves, low, size)
        return Subtrees(pointers(parents), low, size)
    nodes = torch.arange(num_nodes, device=parents.device).unsqueeze(-1)
    low = nodes.repeat(1, num_trees)
    size = (nodes >= num_leaves).long().repeat(1, num_trees)
    flat_low, flat_size, above = low.view(-1), size.view(-1), pointers(parents)
    for leaf in range(num_leaves - 1, 0, -1):
        flat_low.scatter_(0, above[leaf], leaf)  # the smallest is written last
    for node in range(num_nodes - 1, num_leaves, -1):
        there = above[node]
        flat_low.scatter_(0, there, torch.minimum(flat_low.index_select(0, there), low[node]))
        flat_size.scatter_(0, there, flat_size.index_select(0, there) + size[node])
    return Subtrees(above, low, size)


def pointers(parents: Tensor) -> Tensor:
    """Return the index of each node's parent in a flattened ``(M, T)``; indexing this way is faster than ``gather``."""
    num_trees = parents.shape[1]
    return parents * num_trees + torch.arange(num_trees, device=parents.device)


def preorder(parents: Tensor, num_leaves: int) -> Tensor:
    """Number the internal nodes of planted trees in preorder, children ordered by their smallest leaf.

    A first child comes right after its parent, a second child after the whole subtree of its sibling.

    Args:
        parents: planted trees, node by node, ``(M, T)``.
        num_leaves: how many of the M nodes are leaves.

    Returns:
        The new number of each node, ``(M, T)``; leaves keep theirs.
    """
    above, low, size = subtrees(parents, num_leaves)
    if _by_kernel(parents):
        from pyro_ext.phylo._sweep_kernels import number_nodes

        number = torch.empty_like(parents)
        _each_tree(number_nodes, parents.shape[1], parents, num_leaves, low, size, number)
        return number
    later = slice(num_leaves + 1, None)
    there = above[later].flatten()
    sibling = size.view(-1).index_select(0, there).view_as(low[later]) - 1 - size[later]
    second = low[later] != low.view(-1).index_select(0, there).view_as(low[later])
    number = torch.arange(len(parents), device=parents.device).unsqueeze(-1).repeat(1, parents.shape[1])
    number[later] = 1 + second * sibling
    flat_number = number.view(-1)
    for node in range(num_leaves + 1, len(parents)):
        number[node] += flat_number.index_select(0, above[node])
    return number


def _by_kernel(parents: Tensor) -> bool:
    """Return whether a kernel runs: compiled, for large batches; or in Python, where there are few trees a node."""
    if parents.numel() < _SMALL or parents.dtype != torch.int64 or not parents.is_contiguous():
        return False
    return use_kernels(parents) or (parents.shape[1] <= _FEW and parents.device.type == "cpu")


def _each_tree(kernel: Callable[..., None], num_trees: int, *arguments: Tensor | int) -> None:
    arrays = [argument.numpy() if isinstance(argument, Tensor) else argument for argument in arguments]
    if use_kernels(*(argument for argument in arguments if isinstance(argument, Tensor))):
        in_threads(lambda start, stop: kernel(*arrays, start, stop), num_trees, smallest=256)
    else:
        getattr(kernel, "py_func", kernel)(*arrays, 0, num_trees)
