"""The sweeps over the nodes of trees as compiled kernels; all arrays are int64, ``(M, T)`` for T trees of M nodes."""

from __future__ import annotations

from typing import Any

from pyro_ext.ops.kernels import compiled

__all__ = ["number_nodes", "sum_subtrees"]


@compiled
def sum_subtrees(parents: Any, num_leaves: Any, low: Any, size: Any, start: Any, stop: Any) -> None:
    """Write the smallest leaf and the number of internal nodes below each node of the trees ``start`` to ``stop``."""
    num_nodes = parents.shape[0]
    for node in range(num_nodes):
        for tree in range(start, stop):
            low[node, tree] = node
            size[node, tree] = 1 if node >= num_leaves else 0
    for leaf in range(num_leaves - 1, 0, -1):
        for tree in range(start, stop):
            low[parents[leaf, tree], tree] = leaf  # the smallest is written last
    for node in range(num_nodes - 1, num_leaves, -1):
        for tree in range(start, stop):
            parent = parents[node, tree]
            low[parent, tree] = min(low[parent, tree], low[node, tree])
            size[parent, tree] += size[node, tree]


@compiled
def number_nodes(parents: Any, num_leaves: Any, low: Any, size: Any, number: Any, start: Any, stop: Any) -> None:
    """Write the number of each node in preorder, from what :func:`sum_subtrees` wrote."""
    for node in range(num_leaves + 1):
        for tree in range(start, stop):
            number[node, tree] = node
    for node in range(num_leaves + 1, parents.shape[0]):
        for tree in range(start, stop):
            parent = parents[node, tree]
            step = 1
            if low[node, tree] != low[parent, tree]:  # a second child
                step += size[parent, tree] - 1 - size[node, tree]
            number[node, tree] = number[parent, tree] + step
