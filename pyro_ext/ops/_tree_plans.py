"""The memory layout of messages on a batch of trees: all trees level by level, so that a level is one operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Step", "TreePlan", "tree_plan"]

# Of one tensor and its views, so many contents are kept.
_MOST_CONTENTS = 64

_Integers = np.ndarray[Any, np.dtype[np.int64]]


class Step(NamedTuple):
    """Internal nodes of one depth, in the rows ``start`` to ``stop``; their children fill twice as many slots.

    Attributes:
        start: the first row of the step.
        stop: the row after the last row of the step.
        first: the first row of the children that are internal nodes themselves.
        last: the row after the last row of these children.
        place: the position of the first row in a buffer that holds two levels, one of even and one of odd depth.
        inner_place: the position of the children's first row in that buffer.
        sources: the node of each slot: a leaf's number, or n + the row of an internal node.
        siblings: the nodes of the slots as in ``sources``, the two children of each node in the other order.
        inner: the slots of internal nodes, counted from the first slot of the step.
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
        num_trees: the number M of trees.
        num_taxa: the number n of taxa.
        rooted: whether the root is node n; otherwise it is taxon 0.
        edges: the edge above each slot, m E + e for edge e of tree m, int64 ``(2R,)``.
        sibling_edges: the edges as in ``edges``, the two children of each node in the other order.
        inner_edges: the edges above the rows from M on, int64 ``(R - M,)``.
        rows: the row of every internal node, int64 ``(M, I)``.
        steps: the steps from the highest rows to the lowest.
        most_rows: the largest number of rows that a step may have.
        widest: the number of rows of the widest level.
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
        """The only edge at the root if the root is a leaf, else None."""
        return None if self.rooted else self.num_taxa - 1 if self.steps else 0


def tree_plan(parents: Tensor, most_rows: int | None = None) -> TreePlan:
    """Plan the passes over canonical trees; the plans of the last few batches are cached.

    Plans are made on the CPU. Trees on another device are copied to it, for which the host waits, unless the same
    tensor, or the same view of it, was planned before and has not changed since.

    Args:
        parents: M canonical trees, int64 ``batch_shape + (2n - 2,)``, or ``batch_shape + (2n - 1,)`` if rooted.
        most_rows: the largest number of rows of a step; there is no bound if None.

    Raises:
        ValueError: if the trees are not canonical.

    >>> plan = tree_plan(torch.tensor([[-1, 5, 5, 4, 0, 4]]))  # (0, ((1, 2), 3))
    >>> [step.sources for step in plan.steps]  # leaf 3 and the lower internal node; its leaves 1 and 2
    [tensor([3, 5]), tensor([1, 2])]
    """
    with torch.inference_mode(False):  # plans outlive the caller's mode
        shape = parents.shape[:-1].numel(), parents.shape[-1]
        return _tree_plan(_content(parents), shape, most_rows, parents.device)


_CONTENTS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Copies of trees on other devices than the CPU: by tensor, then by view, each with the tensor's version."""


def _content(parents: Tensor) -> bytes:
    """Return the bytes of integers, which need not be copied from a device a second time."""
    if parents.device.type == "cpu" or parents.is_inference():  # the latter do not know their version
        return parents.cpu().numpy().tobytes()
    whole = parents if parents._base is None else parents._base
    copies: dict[Any, tuple[int, bytes]] = _CONTENTS.setdefault(whole, {})
    view = parents.storage_offset(), parents.shape, parents.stride()
    version, content = copies.get(view, (-1, b""))
    if version != whole._version:
        if len(copies) >= _MOST_CONTENTS:
            copies.clear()
        content = parents.cpu().numpy().tobytes()
        copies[view] = whole._version, content
    return content


@lru_cache(maxsize=8)
def _tree_plan(content: bytes, shape: tuple[int, int], most_rows: int | None, device: torch.device) -> TreePlan:
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
    children = by_parent[:, 1 if rooted else 2 :].reshape(-1, 2)[order].ravel()
    tree = np.repeat(order // max(num_internal, 1), 2)
    slots = (children >= num_taxa).nonzero()[0]
    inner_rows = rows[children[slots] + tree[slots] * num_internal - num_taxa]
    _check_preorder(inner_rows, num_trees)
    sources = children.copy()
    sources[slots] = inner_rows + num_taxa
    edges = children - (children > (num_taxa if rooted else 0)) + tree * (num_nodes - 1)
    levels = np.bincount(depths).tolist()
    most_rows = len(order) if most_rows is None else min(most_rows, len(order))
    bounds = _bounds(levels, most_rows)
    inner_bounds = slots.searchsorted([2 * bound for bound in bounds]).tolist()
    doubled = [2 * (stop - start) for start, stop in pairwise(bounds)]
    inner_widths = [stop - start for start, stop in pairwise(inner_bounds)]
    places = slots - 2 * np.repeat(np.array(bounds[:-1], np.int64), np.array(inner_widths, np.int64))
    whole = (edges, _flip(edges), edges[slots], rows)
    # One tensor for all, because many small ones would take longer to make and to send to a device.
    all_of_them = torch.from_numpy(np.concatenate([*whole, sources, _flip(sources), places])).to(device)
    sizes = [len(x) for x in whole] + doubled + doubled + inner_widths
    own, siblings, inner, by_tree, *of_steps = all_of_them.split(sizes)
    steps = _steps(levels, bounds, inner_bounds, of_steps)
    by_tree, widest = by_tree.view(num_trees, num_internal), max(levels, default=0)
    return TreePlan(num_trees, num_taxa, rooted, own, siblings, inner, by_tree, steps, most_rows, widest)


def _depths(parents: _Integers, num_taxa: int) -> _Integers:
    """Return the depths of the internal nodes below the highest, ``(M I,)``, by pointers that double their reach."""
    num_trees, num_internal = len(parents), parents.shape[1] - num_taxa
    above = np.maximum(parents[:, num_taxa:] - num_taxa, 0) + num_internal * np.arange(num_trees)[:, None]
    depths = np.ones_like(above)
    depths[:, :1] = 0
    above, depths = above.ravel(), depths.ravel()
    for _ in range(max(num_internal - 2, 0).bit_length()):
        depths = depths + depths[above]
        above = above[above]
    return depths


def _check_preorder(inner_rows: _Integers, first: int) -> None:
    """Raise a ValueError if internal nodes come in another order among slots than among rows."""
    if not np.array_equal(inner_rows, np.arange(first, first + len(inner_rows))):
        raise ValueError(
            "parents must hold canonical trees, their internal nodes numbered in preorder; bring them into this form "
            "by pyro_ext.phylo.canonicalize"
        )


def _flip(pairs: _Integers) -> _Integers:
    return pairs.reshape(-1, 2)[:, ::-1].ravel()


def _bounds(levels: list[int], most_rows: int) -> list[int]:
    """Return the first row of every step: levels with these numbers of rows, cut into steps of about equal size."""
    bounds = [0]
    for size in levels:
        start, parts = bounds[-1], -(-size // most_rows)
        bounds.extend(start + size * part // parts for part in range(1, parts + 1))
    return bounds


def _steps(
    levels: list[int], bounds: list[int], inner_bounds: list[int], tensors: Sequence[Tensor]
) -> tuple[Step, ...]:
    """Return the steps between the rows ``bounds``, whose internal children lie between ``inner_bounds``."""
    # The rows of a level take the place of those two levels above it.
    starts, widest = [0, *accumulate(levels)], max(levels, default=0)
    offsets = [depth % 2 * widest - start for depth, start in enumerate(starts)]
    count, depth, steps = len(bounds) - 1, 0, []
    for k, (start, stop) in enumerate(pairwise(bounds)):
        depth += start == starts[depth + 1]
        first, last = levels[0] + inner_bounds[k], levels[0] + inner_bounds[k + 1]
        places = start + offsets[depth], first + offsets[depth + 1]
        steps.append(Step(start, stop, first, last, *places, *tensors[k::count]))
    return tuple(steps)
