"""Where the messages of a batch of trees lie: children of every node, as rows of one node-major buffer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TreePlan", "tree_plan"]


@dataclass(frozen=True)
class TreePlan:
    """A batch of M canonical trees of n taxa, flattened; node i of tree m lies in row ``i * M + m``.

    Attributes:
        num_trees: M.
        num_taxa: n.
        rooted: whether the root is node n; otherwise it is taxon 0.
        left: rows of the first children of the internal nodes, int64 ``(I, M)``.
        right: rows of the second children, likewise.
        siblings: rows of every node's sibling, int64 ``(nodes, M)``; any row where there is none.
        parents: rows of every node's parent among the internal nodes alone, int64 ``(nodes, M)``; likewise.
    """

    num_trees: int
    num_taxa: int
    rooted: bool
    left: Tensor
    right: Tensor
    siblings: Tensor
    parents: Tensor

    @property
    def num_nodes(self) -> int:
        """All nodes, ``2n - 1`` where the tree is rooted, else ``2n - 2``."""
        return 2 * self.num_taxa - 2 + self.rooted

    @property
    def root(self) -> int:
        """The number of the root."""
        return self.num_taxa if self.rooted else 0

    @property
    def top(self) -> int:
        """The root, or its only child where it is a leaf itself."""
        return self.num_taxa if self.rooted or self.num_taxa > 2 else 1

    @property
    def leaves(self) -> slice:
        """The leaves with an edge above them."""
        return slice(0 if self.rooted else 1, self.num_taxa)

    @property
    def internal(self) -> range:
        """The nodes with two children, each before its descendants."""
        return range(self.num_taxa, self.num_nodes)

    def by_node(self, edges: Tensor) -> Tensor:
        """Rearrange what belongs to edges, ``batch_shape + (E,) + rest``, as ``(nodes, M) + rest``, the root's unset.

        Args:
            edges: with ``batch_shape`` of M elements and two dims of ``rest``.
        """
        flat = edges.reshape(self.num_trees, *edges.shape[-3:]).transpose(0, 1)
        root = flat.new_zeros((1, *flat.shape[1:]))
        return torch.cat([flat[: self.root], root, flat[self.root :]])


def tree_plan(parents: Tensor) -> TreePlan:
    """Plan the passes over canonical trees.

    Args:
        parents: int64 ``batch_shape + (2n - 2,)``, or ``batch_shape + (2n - 1,)`` for rooted trees.

    >>> plan = tree_plan(torch.tensor([-1, 3, 3, 0]))
    >>> plan.left, plan.right
    (tensor([[1]]), tensor([[2]]))
    """
    flat = parents.reshape(-1, parents.shape[-1])
    num_trees, num_nodes = flat.shape
    num_taxa, rooted = num_nodes // 2 + 1, num_nodes % 2 == 1
    # Children in the order of their parents: the root's first (one, or none yet), then two for each internal node.
    by_parent = flat.argsort(dim=-1, stable=True)
    children = by_parent[:, 1 if rooted else 2 :].reshape(num_trees, -1, 2)
    tree = torch.arange(num_trees, device=flat.device)
    sibling = torch.zeros_like(flat).scatter(-1, children.flatten(-2), children.flip(-1).flatten(-2))
    left, right = (children * num_trees + tree.reshape(-1, 1, 1)).permute(2, 1, 0).contiguous()
    siblings = (sibling * num_trees + tree.unsqueeze(-1)).t().contiguous()
    parents = ((flat - num_taxa).clamp_min(0) * num_trees + tree.unsqueeze(-1)).t().contiguous()
    return TreePlan(num_trees, num_taxa, rooted, left, right, siblings, parents)
