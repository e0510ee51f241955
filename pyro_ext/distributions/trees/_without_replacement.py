"""Distinct topologies drawn one after the other without replacement, from the law of rooted trees behind them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.sets.beam import SequenceSet
from pyro_ext.ops.subsplits.assembly import Unrooted
from pyro_ext.ops.subsplits.rootings import log_sum
from pyro_ext.ops.subsplits.rows import distinct_rows

__all__ = ["FirstTopologies", "first_topologies", "log_mass_left"]


class FirstTopologies(NamedTuple):
    """The first ``k`` distinct topologies among rooted trees, in order, B times.

    Attributes:
        parents: ``(B, k, N)``; the first one again where there are no more.
        there: whether there was another topology, ``(B, k)``.
        rank: which of them each rooted tree is a rooting of, ``(B, m)``; k for none.
    """

    parents: Tensor
    there: Tensor
    rank: Tensor


def first_topologies(parents: Tensor, possible: Tensor, k: int) -> FirstTopologies:
    """Keep the first appearance of each topology.

    Args:
        parents: of m trees in the order drawn, ``(B, m, N)``.
        possible: which of them count, ``(B, m)``, the first ones of each row.
        k: how many topologies are wanted.
    """
    num_laws, num, _ = parents.shape
    law = torch.arange(num_laws, device=parents.device).unsqueeze(-1)
    kinds, kind = distinct_rows(parents.flatten(0, 1))
    kind = kind.view(num_laws, num) + law * len(kinds)
    place = torch.arange(num, device=parents.device).expand(num_laws, num)
    first = torch.full((num_laws * len(kinds),), num, device=parents.device)
    first = first.scatter_reduce(0, kind.flatten(), place.masked_fill(~possible, num).flatten(), "amin")
    leads = first[kind] == place
    rank_of_leader = leads.cumsum(-1) - 1
    leader = first[kind].clamp_max(num - 1)
    rank = rank_of_leader.gather(1, leader).masked_fill(~possible, k).clamp_max(k)
    chosen = torch.where(leads, place, num).sort(-1).values[:, :k]
    size = int((chosen < num).sum(-1).max())
    chosen = chosen[:, :size]
    there = chosen < num
    chosen = torch.where(there, chosen, chosen[:, :1])
    return FirstTopologies(parents.gather(1, chosen.unsqueeze(-1).expand(-1, -1, parents.shape[-1])), there, rank)


def log_mass_left(found: SequenceSet, trees: Unrooted, first: FirstTopologies, rootings: Tensor) -> Tensor:
    r"""Return the log of the probability of all topologies but the first ``k``, ``(B,)``.

    It is the mass of the rooted trees that were not found, plus that of those found whose topology is not among the
    first, less that of the rootings of the first that were not found. Where all rooted trees were found, nothing is
    subtracted; otherwise the error is small beside the mass not found, not beside 1.

    Args:
        found: m rooted trees drawn without replacement, m at least k (2n - 3) or all there are, ``(B, m, ...)``.
        trees: the same without their roots, flattened.
        first: k of their topologies.
        rootings: the log-probability of every rooting of these, ``(B, k, 2n - 3)``.
    """
    num_laws, size, num_edges = rootings.shape
    others = first.rank >= size
    extra = log_sum(found.log_prob.masked_fill(~others, -math.inf))
    seen = torch.zeros(num_laws, size + 1, num_edges, dtype=torch.bool, device=rootings.device)
    law = torch.arange(num_laws, device=rootings.device).unsqueeze(-1)
    seen[law, first.rank.clamp_max(size), trees.root.view(num_laws, -1) - 1] = True
    unseen = rootings.double().masked_fill(seen[:, :size] | ~first.there.unsqueeze(-1), -math.inf)
    everything = torch.logaddexp(found.log_rest, extra)
    # there is another topology, so the difference is positive: rounding must not say otherwise
    gap = (log_sum(unseen.flatten(1)) - everything).clamp_max(-torch.finfo(torch.float64).eps)
    left = everything + torch.log1p(-gap.exp())
    return torch.where(found.log_rest == -math.inf, extra, left)
