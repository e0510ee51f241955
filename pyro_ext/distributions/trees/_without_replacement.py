"""Distinct unrooted topologies drawn one after the other without replacement."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.distributions.distinct import DistinctDraws
from pyro_ext.ops.sets.beam import SequenceSet
from pyro_ext.ops.subsplits.assembly import Unrooted, unrooted_trees
from pyro_ext.ops.subsplits.beam import distinct_choices
from pyro_ext.ops.subsplits.draws import draw_choices
from pyro_ext.ops.subsplits.graph import SplitGraph
from pyro_ext.ops.subsplits.rootings import log_prob_rootings, log_sum, with_constants
from pyro_ext.ops.subsplits.rows import row_kinds
from pyro_ext.phylo.support import SubsplitSupport

__all__ = ["FirstTopologies", "distinct_topologies", "first_topologies", "log_mass_left"]

_DRAWS_PER_TREE = 8  # of independent draws, before a search takes over


def distinct_topologies(log_theta: Tensor, support: SubsplitSupport, k: int) -> DistinctDraws:
    """Draw ``k`` distinct topologies without replacement from each of B distributions.

    The distinct ones among independent draws, in order of appearance, are draws without replacement. Where they are
    fewer than ``k``, a second such sequence, independent of the first, continues it with what is new in it: what is
    drawn without replacement from all trees is, with some left out, so drawn from the others.

    Args:
        log_theta: log-probabilities of the splits given their contexts, ``(B, M)``.
        support: the support of the subsplits.
        k: the number of topologies.

    Returns:
        The trees ``(k', B, N)``, k' = k or the number of all trees, their log-probabilities ``(k', B)``, -inf for
        what is there twice, and the log of the probability of all others ``(B,)``.
    """
    drawn = _independent_draws(log_theta, support.graph, k)
    first = first_topologies(drawn, torch.ones_like(drawn[..., 0], dtype=torch.bool), k)
    if first.parents.shape[1] == k:
        rootings = _rootings(log_theta, support, first.parents)
        log_prob = log_sum(rootings)
        left = 1 - log_prob.double().exp().sum(-1)
        # sums this near to 1 leave nothing but rounding errors
        if bool((first.there.all(-1) & (left > torch.finfo(log_theta.dtype).eps ** 0.5)).all()):
            return DistinctDraws(first.parents.transpose(0, 1), log_prob.t(), left.log())
    return _searched_topologies(log_theta, support, drawn, k)


def _independent_draws(log_theta: Tensor, graph: SplitGraph, k: int) -> Tensor:
    row = torch.arange(len(log_theta), device=log_theta.device).repeat_interleave(_DRAWS_PER_TREE * k)
    trees = unrooted_trees(draw_choices(log_theta, graph, row), graph)
    return trees.parents.view(len(log_theta), _DRAWS_PER_TREE * k, -1)


def _searched_topologies(log_theta: Tensor, support: SubsplitSupport, drawn: Tensor, k: int) -> DistinctDraws:
    """Continue ``drawn`` by a search for rooted trees."""
    rooted = distinct_choices(log_theta, support.graph, k * (2 * support.num_taxa - 3))
    trees = unrooted_trees(rooted.actions.flatten(0, 1), support.graph)
    searched = trees.parents.view(*rooted.log_prob.shape, -1)
    possible = rooted.log_prob > -math.inf
    first = first_topologies(
        torch.cat([drawn, searched], 1), torch.cat([torch.ones_like(drawn[..., 0], dtype=torch.bool), possible], 1), k
    )
    rootings = _rootings(log_theta, support, first.parents)
    log_prob = log_sum(rootings).masked_fill(~first.there, -math.inf)
    first = first._replace(rank=first.rank[:, drawn.shape[1] :])
    log_rest = log_mass_left(rooted, trees, first, rootings)
    return DistinctDraws(first.parents.transpose(0, 1), log_prob.t(), log_rest)


def _rootings(log_theta: Tensor, support: SubsplitSupport, parents: Tensor) -> Tensor:
    """Return the log-probability of every rooting of k trees of each of B distributions, ``(B, k, 2n - 3)``."""
    position, relations = support.index(parents.flatten(0, 1), rooted=False)
    table = with_constants(log_theta)
    row = torch.arange(len(log_theta), device=log_theta.device).repeat_interleave(parents.shape[1])
    place = position + (row * table.shape[-1]).unsqueeze(-1)
    terms = table.reshape(-1).index_select(0, place.reshape(-1)).view_as(place)
    return log_prob_rootings(terms, relations).view(*parents.shape[:2], -1)


class FirstTopologies(NamedTuple):
    """The first ``k`` distinct topologies among m trees, in order, for each of B distributions.

    Attributes:
        parents: the topologies, ``(B, k, N)``; the first one again where there are no more.
        there: whether there was another topology, ``(B, k)``.
        rank: the place of each tree's topology among these, ``(B, m)``; k where it is none of them.
    """

    parents: Tensor
    there: Tensor
    rank: Tensor


def first_topologies(parents: Tensor, possible: Tensor, k: int) -> FirstTopologies:
    """Keep the first appearance of each topology.

    Args:
        parents: the m trees in the order drawn, ``(B, m, N)``.
        possible: which of the trees have positive probability, ``(B, m)``; in each row they come first.
        k: how many topologies are wanted.
    """
    num_rows, num, _ = parents.shape
    row = torch.arange(num_rows, device=parents.device).view(-1, 1, 1).expand(-1, num, 1)
    trees = torch.cat([row, parents], -1).flatten(0, 1)  # those of different rows are never of one kind
    kind, collide = row_kinds(trees)
    chosen, rank = _first_of_kinds(kind.view_as(possible), possible, k)
    size, collided = torch.stack([(chosen < num).sum(-1).max(), collide.long()]).tolist()  # the only wait
    if collided:
        kind = trees.unique(dim=0, return_inverse=True)[1]
        chosen, rank = _first_of_kinds(kind.view_as(possible), possible, k)
        size = int((chosen < num).sum(-1).max())
    chosen = chosen[:, :size]
    there = chosen < num
    chosen = torch.where(there, chosen, chosen[:, :1])
    return FirstTopologies(parents.gather(1, chosen.unsqueeze(-1).expand(-1, -1, parents.shape[-1])), there, rank)


def _first_of_kinds(kind: Tensor, possible: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the places of the first ``k`` kinds in each row of ``(B, m)``, m for none, and every place's rank."""
    num = kind.shape[1]
    place = torch.arange(num, device=kind.device).expand(kind.shape)
    first = torch.full((kind.numel(),), num, device=kind.device)
    first = first.scatter_reduce(0, kind.flatten(), place.masked_fill(~possible, num).flatten(), "amin")
    leads = first[kind] == place
    rank_of_leader = leads.cumsum(-1) - 1
    leader = first[kind].clamp_max(num - 1)
    rank = rank_of_leader.gather(1, leader).masked_fill(~possible, k).clamp_max(k)
    return torch.where(leads, place, num).sort(-1).values[:, :k], rank


def log_mass_left(rooted: SequenceSet, trees: Unrooted, first: FirstTopologies, rootings: Tensor) -> Tensor:
    r"""Return the log of the probability of all topologies but the first ``k``, ``(B,)``.

    It is the mass of the rooted trees that were not drawn, plus that of those drawn whose topology is not among the
    first ``k``, less that of the rootings of the first ``k`` that were not drawn. Where all rooted trees were drawn,
    nothing is subtracted; otherwise the error is small relative to the mass not drawn, not only relative to 1.

    Args:
        rooted: m rooted trees drawn without replacement, m at least k (2n - 3) or all there are, ``(B, m, ...)``.
        trees: the same trees without their roots, ``(B m, ...)``.
        first: the first k topologies among them.
        rootings: the log-probability of every rooting of the first k topologies, ``(B, k, 2n - 3)``.
    """
    num_rows, size, num_edges = rootings.shape
    others = first.rank >= size
    extra = log_sum(rooted.log_prob.masked_fill(~others, -math.inf))
    seen = torch.zeros(num_rows, size + 1, num_edges, dtype=torch.bool, device=rootings.device)
    row = torch.arange(num_rows, device=rootings.device).unsqueeze(-1)
    seen[row, first.rank.clamp_max(size), trees.root.view(num_rows, -1) - 1] = True
    unseen = rootings.double().masked_fill(seen[:, :size] | ~first.there.unsqueeze(-1), -math.inf)
    everything = torch.logaddexp(rooted.log_rest, extra)
    # there is another topology, so the difference is positive: rounding must not say otherwise
    gap = (log_sum(unseen.flatten(1)) - everything).clamp_max(-torch.finfo(torch.float64).eps)
    left = everything + torch.log1p(-gap.exp())
    return torch.where(rooted.log_rest == -math.inf, extra, left)
