"""The rooted trees of a graph of subsplits by falling probability, made one after the other as they are asked for."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import Any

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.graph import SplitGraph
from pyro_ext.ops.subsplits.programs import best_log_probs

__all__ = ["BestTrees"]

_Subtree = tuple[float, int, Any, Any]
"""Log-probability and split of a subtree, and the subtrees below its two children."""


class BestTrees:
    r"""List the rooted trees of a graph of subsplits by falling probability.

    Every context keeps the subtrees found below it, best first, and a heap of candidates: its i-th best subtree is a
    split, with the j-th best subtree below the one child and the k-th best below the other. A candidate enters the
    heap when the one before it has left, so contexts are only explored as far as the trees asked for need them.
    Trees of probability zero are left out. Equally probable ones come in an order that depends on the graph alone.

    The search runs on the CPU, in Python; a tree takes some tens of microseconds.

    Args:
        log_theta: log-probabilities of the M splits given their contexts, float64 ``(M,)``.
        graph: the graph of subsplits that the splits belong to, on the CPU.

    References:
        | Better k-best parsing (Huang and Chiang, 2005), algorithm 3
        | https://aclanthology.org/W05-1506

    >>> from pyro_ext.ops.subsplits.collect import collect_splits
    >>> from pyro_ext.ops.subsplits.layout import lay_out
    >>> trees = torch.tensor([[3, 4, 4, -1, 3], [4, 3, 4, -1, 3], [4, 4, 3, -1, 3]])  # all rooted trees of 3 taxa
    >>> graph = lay_out(collect_splits(trees, 3, "rooted"), 3, 2, True).graph
    >>> theta = torch.tensor([0.5, 0.2, 0.3, 1.0, 1.0, 1.0], dtype=torch.float64)
    >>> BestTrees(theta.log(), graph).take(2)[1].exp()
    tensor([0.5000, 0.3000], dtype=torch.float64)
    """

    def __init__(self, log_theta: Tensor, graph: SplitGraph) -> None:
        below = best_log_probs(log_theta, graph)
        best = torch.cat([below, below.new_zeros(1)])
        first, second = graph.child_segment
        value = log_theta + best.index_select(0, first) + best.index_select(0, second)
        self._graph = graph
        self._value: list[float] = value.tolist()
        self._log_theta: list[float] = log_theta.tolist()
        self._first: list[int] = first.tolist()
        self._second: list[int] = second.tolist()
        self._start: list[int] = graph.start.tolist()
        self._lists: dict[int, _Subtrees] = {graph.num_contexts: _leaf()}
        self._taken = 0

    def take(self, num: int) -> tuple[Tensor, Tensor]:
        """Return the next ``num`` trees, fewer where no more are left.

        Returns:
            The splits of each tree in preorder, int64 ``(T, J)``, and their log-probabilities, float64 ``(T,)``.
        """
        found = self._of(0).found
        while len(found) < self._taken + num and self._grow(0):
            pass
        trees = found[self._taken : self._taken + num]
        self._taken += len(trees)
        choices = torch.tensor([_preorder(tree) for tree in trees], dtype=torch.int64, device="cpu")
        log_prob = torch.tensor([tree[0] for tree in trees], dtype=torch.float64, device="cpu")
        return choices.view(len(trees), self._graph.num_choices), log_prob

    def heads(self) -> Tensor:
        """Return for each split of all taxa a bound on the log-probability of the trees not yet taken that have it.

        It is that of the best such tree; for the split of the last tree taken, it may be that tree's own.

        Returns:
            Float64 ``(R,)``; -inf where no trees are left.
        """
        here = self._of(0)
        heads = [-math.inf] * self._graph.level_splits[1]
        for negative, split, _, _ in here.heap:
            heads[split] = max(heads[split], -negative)
        for split, _, _ in here.pending:
            heads[split] = max(heads[split], here.found[-1][0])
        return torch.tensor(heads, dtype=torch.float64, device="cpu")

    def _of(self, context: int) -> _Subtrees:
        made = self._lists.get(context)
        if made is None:
            splits = range(self._start[context], self._start[context + 1])
            candidates = [(-self._value[split], split, 0, 0) for split in splits if self._value[split] > -math.inf]
            made = self._lists[context] = _Subtrees(candidates)
        return made

    def _grow(self, context: int) -> bool:
        """Find the next subtree of a context, and before it those below that it needs; False if there is none."""
        waiting = [context]
        while waiting:
            here = self._of(waiting[-1])
            needed = self._settle(here)
            if needed is None:
                waiting.pop()
            else:
                waiting.append(needed)
        return not self._of(context).ended

    def _settle(self, here: _Subtrees) -> int | None:
        """Move the best candidate to those found; or return a context that must grow before."""
        while here.pending:
            split, i, j = here.pending[-1]
            pair = self._first[split], self._second[split]
            one, other = self._of(pair[0]), self._of(pair[1])
            if len(one.found) <= i and not one.ended:
                return pair[0]
            if len(other.found) <= j and not other.ended:
                return pair[1]
            here.pending.pop()
            if i < len(one.found) and j < len(other.found):
                value = self._log_theta[split] + one.found[i][0] + other.found[j][0]
                heappush(here.heap, (-value, split, i, j))
        if not here.heap:
            here.ended = True
            return None
        negative, split, i, j = here.heap[0]
        pair = self._first[split], self._second[split]
        one, other = self._of(pair[0]), self._of(pair[1])
        if len(one.found) <= i:
            return pair[0]
        if len(other.found) <= j:
            return pair[1]
        heappop(here.heap)
        here.found.append((-negative, split, one.found[i], other.found[j]))
        # each pair of ranks has one predecessor, so that none enters twice
        here.pending.append((split, i, j + 1))
        if j == 0:
            here.pending.append((split, i + 1, 0))
        return None


class _Subtrees:
    """The subtrees of a context: those found, best first, and the candidates for the next.

    Args:
        candidates: minus the log-probability, the split, and the ranks of the two subtrees below, of each candidate.
    """

    def __init__(self, candidates: list[tuple[float, int, int, int]]) -> None:
        heapify(candidates)
        self.heap = candidates
        self.found: list[_Subtree] = []
        self.pending: list[tuple[int, int, int]] = []
        self.ended = False


def _leaf() -> _Subtrees:
    leaf = _Subtrees([])
    leaf.found.append((0.0, -1, None, None))
    leaf.ended = True
    return leaf


def _preorder(tree: _Subtree) -> list[int]:
    splits, waiting = [], [tree]
    while waiting:
        _, split, first, second = waiting.pop()
        if split >= 0:
            splits.append(split)
            waiting += (second, first)
    return splits
