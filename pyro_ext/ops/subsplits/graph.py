"""The graph of subsplits, in flat arrays: which splits a context allows, and which contexts these lead to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SplitGraph", "Steps", "row_choices"]


class SplitGraph(NamedTuple):
    """S contexts, each a clade to be split, perhaps beside a given sister, and all their M splits in one row.

    Contexts are ordered by decreasing size of their clade, the clade of all taxa first; the first child of a split
    is the one that holds the smallest leaf.

    Attributes:
        num_taxa: the number n of taxa.
        num_choices: the number J of splits in a tree.
        levels: the first context of each clade size, then S.
        level_splits: the first split of the contexts of each clade size, then M.
        start: the first split of each context, then M, ``(S + 1,)``.
        segment: the context of each split, ``(M,)``.
        child_segment: the contexts of the two children of each split, ``(2, M)``; S for a leaf.
        child_size: the number of taxa of the children, ``(2, M)``.
        smallest: the smallest leaf of each child, ``(2, M)``.
        smallest_outside: the smallest leaf outside the clade that is split, ``(M,)``; n for the clade of all taxa.
    """

    num_taxa: int
    num_choices: int
    levels: tuple[int, ...]
    level_splits: tuple[int, ...]
    start: Tensor
    segment: Tensor
    child_segment: Tensor
    child_size: Tensor
    smallest: Tensor
    smallest_outside: Tensor

    @property
    def num_contexts(self) -> int:
        """The number S of contexts."""
        return len(self.start) - 1

    @property
    def num_splits(self) -> int:
        """The number M of splits."""
        return len(self.segment)


class Steps:
    """Where the splits of a graph lead: from the slot of a split to those of its children.

    The splits of a tree are numbered in preorder, so the first child of slot k is in slot k + 1, and the second
    child comes after all slots below the first.

    Args:
        graph: a graph of S contexts whose trees have J splits.
    """

    def __init__(self, graph: SplitGraph) -> None:
        jump = torch.stack([torch.ones_like(graph.child_size[0]), graph.child_size[0]])
        self._nowhere = graph.num_choices
        self._jump = jump.masked_fill_(graph.child_segment == graph.num_contexts, self._nowhere).t().contiguous()
        self._context = graph.child_segment.t().contiguous()

    def follow(self, slots: Tensor, slot: int, split: Tensor) -> Tensor:
        """Write down the contexts of the children of a split.

        Args:
            slots: the context of each slot as far as known, ``(T, J + 1)``; slot J stands for all leaves.
            slot: the number k of the slot whose splits are given.
            split: the split of slot k in each tree, ``(T,)``.

        Returns:
            ``slots``, changed in place.
        """
        place = self._jump.index_select(0, split).add_(slot).clamp_(max=self._nowhere)
        return slots.scatter_(1, place, self._context.index_select(0, split))


def row_choices(graph: SplitGraph, best: Tensor) -> Tensor:
    """Return the trees that result if every context has a fixed split.

    Args:
        graph: the graph of subsplits, with S contexts.
        best: the split of each context, int64 ``(T, S)``.

    Returns:
        The splits of each tree in preorder, int64 ``(T, J)``.
    """
    slots = best.new_zeros(len(best), graph.num_choices + 1)
    choices, steps = [], Steps(graph)
    for k in range(graph.num_choices):
        split = best.gather(1, slots[:, k : k + 1]).squeeze(1)
        choices.append(split)
        steps.follow(slots, k, split)
    return torch.stack(choices, -1)
