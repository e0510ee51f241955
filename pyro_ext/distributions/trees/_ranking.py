"""The trees of one distribution by falling probability, proved to be so, a few at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_ext.ops.subsplits.assembly import unrooted_trees
from pyro_ext.ops.subsplits.best import BestTrees
from pyro_ext.ops.subsplits.graph import SplitGraph
from pyro_ext.ops.subsplits.rootings import log_prob_rootings, log_sum, with_constants
from pyro_ext.phylo.support import SubsplitSupport

__all__ = [
    "TIE",
    "Ranked",
    "Ranking",
    "ranked_list",
    "ranked_parts",
    "ranked_rooted",
    "ranked_unrooted",
    "rootings_of",
    "unseen_trees",
]

TIE = 1e-10
"""Log-probabilities that differ by less are taken as equal: they are sums in float64, with rounding errors."""

_FIRST, _MOST = 32, 4096  # trees made at a time
_MOST_TIED = 1000  # trees looked at to put those that tie with the last one into order


class Ranked(NamedTuple):
    """Trees and their log-probabilities, on the CPU.

    Attributes:
        parents: canonical parent vectors, int64 ``(T, N)``.
        log_prob: the log-probabilities, float64 ``(T,)``.
    """

    parents: Tensor
    log_prob: Tensor


Chunks = Iterator[Ranked | None]
"""Trees by falling probability; ``None`` where the limit of a search is reached before more of them are proved."""


class Ranking:
    """The trees of one distribution by falling probability, as far as they have been asked for.

    Args:
        chunks: the trees.
    """

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._parts: list[Ranked] = []
        self.num = 0
        self.mass = 0.0
        self.last = math.inf
        self.ended = False
        self.limited = False

    def extend_while(self, wanted: Callable[[Ranking], bool]) -> bool:
        """Ask for more trees as long as they are wanted; False if the limit is reached before."""
        while wanted(self) and not self.ended:
            if self.limited:
                return False
            try:
                part = next(self._chunks)
            except StopIteration:
                self.ended = True
                return True
            if part is None:
                self.limited = True
                return False
            self._parts.append(part)
            self.num += len(part.log_prob)
            self.mass += float(part.log_prob.exp().sum())
            self.last = float(part.log_prob.min())
        return True

    def extend_to(self, least: float) -> bool:
        """Ask for all trees of at least some log-probability; False if the limit is reached before."""
        return self.extend_while(lambda r: r.last >= least)

    def complete_ties(self, place: int) -> None:
        """Ask for the trees as probable as the one at a place, if they are not very many."""
        if 0 < place <= self.num:
            least = float(self.in_order().log_prob[place - 1]) - TIE
            self.extend_while(lambda r: r.last >= least and r.num < place + _MOST_TIED)

    def in_order(self) -> Ranked:
        """Return the trees found, those of equal probability in the order of their parent vectors."""
        parents = torch.cat([part.parents for part in self._parts])
        log_prob = torch.cat([part.log_prob for part in self._parts])
        order = log_prob.argsort(descending=True, stable=True)
        parents, log_prob = parents[order], log_prob[order]
        group = (log_prob[:-1] - log_prob[1:] > TIE).cumsum(0)
        keys = np.concatenate([[0], group.numpy()])
        ties = np.lexsort((*parents.numpy().T[::-1], keys))
        order = torch.from_numpy(ties)
        return Ranked(parents[order], log_prob[order])


def ranked_list(parents: Tensor, log_prob: Tensor) -> Chunks:
    """Rank trees that are listed, those of probability zero left out.

    Args:
        parents: distinct trees, ``(T, N)``.
        log_prob: their log-probabilities, float64 ``(T,)``.
    """
    possible = log_prob > -math.inf
    yield Ranked(parents[possible].cpu(), log_prob[possible].cpu())


def ranked_rooted(log_theta: Tensor, graph: SplitGraph, build: Callable[[Tensor], Tensor], limit: int) -> Chunks:
    """Rank trees that come from one sequence of splits each.

    Args:
        log_theta: log-probabilities of the splits, float64 ``(M,)``, on the CPU.
        graph: the graph of subsplits that the splits belong to, on the CPU.
        build: makes trees ``(T, N)`` of splits ``(T, J)``.
        limit: the largest number of trees to look at.
    """
    for part in ranked_parts(BestTrees(log_theta, graph), limit):
        yield None if part is None else Ranked(build(part[0]), part[1])


def ranked_unrooted(log_theta: Tensor, support: SubsplitSupport, limit: int) -> Chunks:
    """Rank unrooted trees, whose probability is the sum over their rootings.

    Rooted trees are made by falling probability, and each new topology gets its exact probability. A topology not yet
    seen has none of its rootings among the rooted trees made. So each of its rootings has at most the probability of
    the best rooted tree to come with that split at the root, and their sum is at most that of these bounds over the n
    splits of a single taxon, which all topologies have, and over the n - 3 largest others; nor is it more than the
    probability of all topologies not yet seen. A topology of at least this probability is proved to come next.

    Args:
        log_theta: log-probabilities of the splits, float64 ``(M,)``, on the CPU.
        support: the support of the subsplits, on the CPU.
        limit: the largest number of rooted trees to look at.
    """
    graph, table = support.graph, with_constants(log_theta)
    best = BestTrees(log_theta, graph)
    of_one_taxon = (graph.child_size[:, : support.num_rootsplits] == 1).any(0)
    seen: dict[bytes, None] = {}
    waiting: list[tuple[float, int]] = []
    rows: list[np.ndarray] = []
    mass = 0.0
    for part in ranked_parts(best, limit):
        if part is None:
            break
        new = unseen_trees(unrooted_trees(part[0], graph).parents, seen)
        if len(new):
            log_prob = log_sum(rootings_of(table, support, new))
            mass += float(log_prob.exp().sum())
            for parents, value in zip(new.numpy(), log_prob.tolist(), strict=True):
                heappush(waiting, (-value, len(rows)))
                rows.append(parents)
        heads = best.heads().exp()
        others = heads[~of_one_taxon].sort(descending=True).values[: support.num_taxa - 3]
        bound = min(float(heads[of_one_taxon].sum() + others.sum()), max(1.0 - mass, 0.0) + 1e-13)
        ready = _popped(waiting, math.log(bound) - TIE if bound > 0 else -math.inf)
        if ready:
            yield _of_places(rows, ready)
    else:
        ready = _popped(waiting, -math.inf)
        if ready:
            yield _of_places(rows, ready)
        return
    yield None


def rootings_of(table: Tensor, support: SubsplitSupport, parents: Tensor) -> Tensor:
    """Return the log-probability of every rooting of unrooted trees ``(T, N)``, ``(T, 2n - 3)``.

    Args:
        table: log-probabilities of the splits, with the constants, ``(M + 2,)``.
        support: the support of the subsplits.
        parents: canonical parent vectors, ``(T, N)``.
    """
    position, relations = support.index(parents, rooted=False)
    return log_prob_rootings(table.index_select(0, position.reshape(-1)).view_as(position), relations)


def ranked_parts(best: BestTrees, limit: int) -> Iterator[tuple[Tensor, Tensor] | None]:
    """Yield the splits of trees and their log-probabilities; ``None`` at last if there are more than the limit."""
    made, size = 0, _FIRST
    while made < limit:
        size = min(size, limit - made)
        choices, log_prob = best.take(size)
        if len(choices):
            yield choices, log_prob
        if len(choices) < size:
            return
        made, size = made + size, min(2 * size, _MOST)
    if len(best.take(1)[0]):
        yield None


def unseen_trees(parents: Tensor, seen: dict[bytes, None]) -> Tensor:
    """Return the trees not seen before, each once, and add them to those seen."""
    new = []
    for place, row in enumerate(parents.numpy()):
        key = row.tobytes()
        if key not in seen:
            seen[key] = None
            new.append(place)
    return parents[new]


def _popped(waiting: list[tuple[float, int]], least: float) -> list[tuple[float, int]]:
    ready = []
    while waiting and -waiting[0][0] >= least:
        ready.append(heappop(waiting))
    return ready


def _of_places(rows: list[np.ndarray], ready: list[tuple[float, int]]) -> Ranked:
    parents = torch.from_numpy(np.stack([rows[place] for _, place in ready]))
    return Ranked(parents, torch.tensor([-value for value, _ in ready], dtype=torch.float64, device="cpu"))
