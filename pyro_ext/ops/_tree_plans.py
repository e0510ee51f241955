"""Where the messages of a batch of trees lie: all trees level by level, so that a level is one operation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Step", "TreePlan", "tree_plan"]

_Integers = np.ndarray[Any, np.dtype[np.int64]]


class Step(NamedTuple):
    """Internal nodes of one depth, in the rows ``start`` to ``stop``; their children fill twice as many slots.

    Attributes:
        start: the first row.
        stop: the row after the last.
        first: the first row of the children that are internal nodes themselves.
        last: the row after the last of them.
        place: where the first row lies among the rows of two levels, those of even and those of odd depth.
        inner_place: where the first row of the children does.
        sources: what is in each slot: a leaf's number, or n + the row of an internal node.
        siblings: the same, the two children of each node in the other order.
        inner: the slots of internal nodes, counted from the first of the step.
    """

    start: int
    stop: int
    first: int
    last: int
    place: int
    inner_place: int
    sources: Tensor
    siblings: Tensor
    inner: Tensor


@dataclass(frozen=True)
class TreePlan:
    """A batch of M canonical trees of n taxa, each with I internal nodes and E edges.

    The internal nodes of all trees lie in R = M I rows, ordered by depth, then by tree, then as in the tree: row m is
    the highest one of tree m. The children of row r have the slots 2r and 2r + 1; internal nodes come in the same
    order among slots as among rows.

    Attributes:
        num_trees: M.
        num_taxa: n.
        rooted: whether the root is node n; otherwise it is taxon 0.
        edges: the edge above each slot, m E + e for edge e of tree m, int64 ``(2R,)``.
        sibling_edges: the same, the two children of each node in the other order.
        inner_edges: the edges above the rows from M on, int64 ``(R - M,)``.
        rows: the row of every internal node, int64 ``(M, I)``.
        steps: the rows from the highest to the lowest.
        most_rows: how many rows a step may have.
        widest: how many rows the widest level has.
    """

    num_trees: int
    num_taxa: int
    rooted: bool
    edges: Tensor
    sibling_edges: Tensor
    inner_edges: Tensor
    rows: Tensor
    steps: tuple[Step, ...]
    most_rows: int
    widest: int

    @property
    def step_rows(self) -> tuple[list[int], list[int], list[int]]:
        """The number of rows of every step, of their children, and of those that are internal nodes themselves."""
        widths = [step.stop - step.start for step in self.steps]
        return widths, [2 * width for width in widths], [step.last - step.first for step in self.steps]

    @property
    def top_edge(self) -> int | None:
        """The only edge at the root, where that is a leaf."""
        return None if self.rooted else self.num_taxa - 1 if self.steps else 0


def tree_plan(parents: Tensor, most_rows: int | None = None) -> TreePlan:
    """Plan the passes over canonical trees; plans of the last few batches are remembered.

    Args:
        parents: int64 ``(M, 2n - 2)``, or ``(M, 2n - 1)`` for rooted trees.
        most_rows: of a step; there is no bound if None.

    Raises:
        ValueError: if the trees are not canonical.

    >>> plan = tree_plan(torch.tensor([[-1, 5, 5, 4, 0, 4]]))  # (0, ((1, 2), 3))
    >>> [step.sources for step in plan.steps]  # leaf 3 and the lower internal node; its leaves 1 and 2
    [tensor([3, 5]), tensor([1, 2])]
    """
    with torch.inference_mode(False):  # plans outlive the caller's mode
        return _tree_plan(parents.cpu().numpy().tobytes(), parents.shape, most_rows, parents.device)


@lru_cache(maxsize=8)
def _tree_plan(content: bytes, shape: torch.Size, most_rows: int | None, device: torch.device) -> TreePlan:
    parents = np.frombuffer(content, np.int64).reshape(shape)
    num_trees, num_nodes = shape
    num_taxa, rooted = num_nodes // 2 + 1, num_nodes % 2 == 1
    num_internal = num_nodes - num_taxa
    depths = _depths(parents, num_taxa)
    order = depths.argsort(kind="stable")
    rows = np.empty_like(order)
    rows[order] = np.arange(len(order))
    # Children in the order of their parents: the root's first (one, or none yet), then two for each internal node.
    by_parent = parents.argsort(-1, kind="stable")
    children = by_parent[:, 1 if rooted else 2 :].reshape(-1, 2)[order]
    tree = order[:, None] // max(num_internal, 1)
    is_inner = children >= num_taxa
    sources = children.copy()
    sources[is_inner] = num_taxa + rows[(children + tree * num_internal)[is_inner] - num_taxa]
    _check_preorder(sources[is_inner], num_taxa + num_trees)
    edges = children - (children > (num_taxa if rooted else 0)) + tree * (num_nodes - 1)
    most_rows = len(order) if most_rows is None else min(most_rows, len(order))
    levels = np.bincount(depths).tolist()
    steps = _steps(levels, sources, is_inner, most_rows, device)
    found = (edges.ravel(), edges[:, ::-1].ravel(), edges[is_inner], rows.reshape(num_trees, num_internal))
    own, siblings, inner, by_tree = (torch.from_numpy(x).to(device) for x in found)
    widest = max(levels, default=0)
    return TreePlan(num_trees, num_taxa, rooted, own, siblings, inner, by_tree, steps, most_rows, widest)


def _depths(parents: _Integers, num_taxa: int) -> _Integers:
    """Return the depths of the internal nodes below the highest, ``(M I,)``, by doubling what a step leaps over."""
    num_trees, num_internal = len(parents), parents.shape[1] - num_taxa
    above = np.maximum(parents[:, num_taxa:] - num_taxa, 0) + num_internal * np.arange(num_trees)[:, None]
    depths = np.ones_like(above)
    depths[:, :1] = 0
    above, depths = above.ravel(), depths.ravel()
    for _ in range(max(num_internal - 2, 0).bit_length()):
        depths = depths + depths[above]
        above = above[above]
    return depths


def _check_preorder(inner_sources: _Integers, first: int) -> None:
    """Raise where internal nodes do not come in the same order among slots as among rows."""
    if not np.array_equal(inner_sources, np.arange(first, first + len(inner_sources))):
        raise ValueError(
            "parents must hold canonical trees, their internal nodes numbered in preorder; bring them into this form "
            "by pyro_ext.phylo.canonicalize"
        )


def _steps(
    levels: list[int], sources: _Integers, is_inner: np.ndarray[Any, Any], most_rows: int, device: torch.device
) -> tuple[Step, ...]:
    """Cut the levels, of so many rows each, into steps, those of a level of about equal size."""
    bounds, depths = [0], []
    for depth, size in enumerate(levels):
        start, parts = bounds[-1], -(-size // most_rows)
        bounds.extend(start + size * part // parts for part in range(1, parts + 1))
        depths.extend([depth] * parts)
    slots = is_inner.ravel().nonzero()[0]
    inner_bounds = slots.searchsorted([2 * bound for bound in bounds]).tolist()
    inner_widths = [stop - start for start, stop in pairwise(inner_bounds)]
    doubled = [2 * (stop - start) for start, stop in pairwise(bounds)]
    found = sources.ravel(), sources[:, ::-1].ravel(), slots - 2 * np.repeat(bounds[:-1], inner_widths)
    own, siblings, inner = (torch.from_numpy(x).to(device) for x in found)
    tensors = zip(own.split(doubled), siblings.split(doubled), inner.split(inner_widths), strict=True)
    # A level's rows lie where those two levels above it did.
    starts, widest, highest = [0, *accumulate(levels)], max(levels, default=0), levels[0] if levels else 0
    offsets = [depth % 2 * widest - start for depth, start in enumerate(starts)]
    steps = []
    for depth, (start, stop), inner_bound, of_step in zip(
        depths, pairwise(bounds), pairwise(inner_bounds), tensors, strict=True
    ):
        first, last = (highest + bound for bound in inner_bound)
        steps.append(Step(start, stop, first, last, start + offsets[depth], first + offsets[depth + 1], *of_step))
    return tuple(steps)
