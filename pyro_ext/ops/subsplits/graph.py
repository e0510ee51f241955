"""The graph of subsplits, in flat arrays: which splits a context allows, and which contexts these lead to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SplitGraph", "Steps", "row_choices"]


class SplitGraph(NamedTuple):
    """S contexts, each a clade to be split perhaps beside a given sister, and their M splits in a row.

    Contexts are ordered by decreasing size of their clade, the whole first; a split's first child holds the smaller
    smallest leaf.

    Attributes:
        num_taxa: n.
        num_choices: J, the number of splits in a tree.
        levels: where the contexts of each size begin, S at the end, as numbers.
        level_splits: where the splits of these contexts begin, M at the end.
        start: where the splits of each context begin, ``(S + 1,)``.
        segment: the context of each split, ``(M,)``.
        child_segment: the contexts of its two children, ``(2, M)``; S for a leaf.
        child_size: the number of taxa of the children, ``(2, M)``.
        smallest: the smallest leaf of each child, ``(2, M)``.
        smallest_outside: the smallest leaf outside the clade that is split, ``(M,)``; n for the whole.
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
        """S."""
        return len(self.start) - 1

    @property
    def num_splits(self) -> int:
        """M."""
        return len(self.segment)


class Steps:
    """Where the splits of a graph lead: from the slot of a split to those of its children.

    The splits of a tree are numbered in preorder, so the first child of slot k is in slot k + 1, and the second
    comes after all of the first's.

    Args:
        graph: of S contexts, trees of J splits.
    """

    def __init__(self, graph: SplitGraph) -> None:
        jump = torch.stack([torch.ones_like(graph.child_size[0]), graph.child_size[0]])
        self._nowhere = graph.num_choices
        self._jump = jump.masked_fill_(graph.child_segment == graph.num_contexts, self._nowhere).t().contiguous()
        self._context = graph.child_segment.t().contiguous()

    def follow(self, slots: Tensor, slot: int, split: Tensor) -> Tensor:
        """Note the contexts that a split leads to.

        Args:
            slots: the context of each slot so far, ``(T, J + 1)``; slot J takes what leads to leaves.
            slot: the slot k that was split.
            split: its splits, ``(T,)``.

        Returns:
            ``slots``, changed in place.
        """
        place = self._jump.index_select(0, split).add_(slot).clamp_(max=self._nowhere)
        return slots.scatter_(1, place, self._context.index_select(0, split))


def row_choices(graph: SplitGraph, best: Tensor) -> Tensor:
    """Follow a fixed split of every context from the top.

    Args:
        graph: of S contexts.
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
