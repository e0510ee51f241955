"""Clades and subsplits under a distribution of trees: how probable they are, and what follows where one occurs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.segments import segment_logsumexp
from pyro_ext.ops.subsplits.bits import clade_sizes, complements, members
from pyro_ext.ops.subsplits.graph import SplitGraph
from pyro_ext.ops.subsplits.programs import event_log_prob, log_reach
from pyro_ext.phylo.support import SubsplitSupport

__all__ = ["CladeMarginals", "clade_credibility", "clade_marginals", "clade_splits", "logits_given", "subsplit_splits"]


class CladeMarginals(NamedTuple):
    """The clades of a support that not every tree has.

    Attributes:
        clades: which taxa each clade holds, bool ``(C, n)``; for unrooted trees the side of a split without taxon 0.
        log_prob: log of the probability that a tree has the clade, ``batch_shape + (C,)``.
    """

    clades: Tensor
    log_prob: Tensor


def clade_marginals(log_theta: Tensor, support: SubsplitSupport, rooted: bool) -> CladeMarginals:
    """Return all clades and their log-probabilities, for ``log_theta`` ``batch_shape + (M,)``."""
    clades, log_prob = _marginals(log_theta, support, rooted)
    return CladeMarginals(members(clades, support.num_taxa), log_prob)


def _marginals(log_theta: Tensor, support: SubsplitSupport, rooted: bool) -> tuple[Tensor, Tensor]:
    """Return the words of all clades that not every tree has, ``(C, words)``, and their log-probabilities."""
    layout, n = support.layout, support.num_taxa
    reach = log_reach(log_theta, support.graph)
    words = layout.words[layout.focal]
    size = clade_sizes(words)
    counted = size <= (n - 1 if rooted else n - 2)
    if not rooted:
        rest = complements(words, n)
        beside_rest = (layout.words[layout.sister] == rest).all(-1) & (layout.sister >= 0)
        has_first = words[:, 0] & 1 == 1
        # a root on the edge of a split makes two clades of it: count the one without taxon 0
        counted &= (size > 1) & ~(has_first & beside_rest)
        words = torch.where(has_first.unsqueeze(-1), rest, words)
    clades, number = words[counted].unique(dim=0, return_inverse=True)
    return clades, segment_logsumexp(reach[..., counted], number, len(clades))


def clade_credibility(log_theta: Tensor, support: SubsplitSupport, rooted: bool) -> Tensor:
    """Return what each split adds to the log of the product of a tree's clade probabilities, ``batch_shape + (M,)``.

    It is that of the clades of its two children; -inf for splits that are never made. The two clades on both sides of
    the root of an unrooted tree are one split of it, which counts once.

    Args:
        log_theta: the log-probability of each split given its context, ``batch_shape + (M,)``.
        support: the support of the splits.
        rooted: whether the trees are rooted.
    """
    layout, n = support.layout, support.num_taxa
    known, log_prob = _marginals(log_theta, support, rooted)
    words = layout.words
    if not rooted:
        words = torch.where((words[:, 0] & 1 == 1).unsqueeze(-1), complements(words, n), words)
    distinct, number = torch.cat([known, words]).unique(dim=0, return_inverse=True)
    table = log_prob.new_zeros(*log_prob.shape[:-1], len(distinct))
    table[..., number[: len(known)]] = log_prob  # 0 for those that every tree has
    first, second = table[..., number[len(known) :][layout.children.t()]].unbind(-2)
    if not rooted and support.sisters:
        second = second.clone()
        second[..., : support.num_rootsplits] = 0
    return (first + second).masked_fill(log_theta == -math.inf, -math.inf)


def logits_given(log_theta: Tensor, graph: SplitGraph, done: Tensor, event: str) -> Tensor:
    """Return the logits of the conditional distribution of trees, given that one of some splits is made.

    The probability of each split is multiplied by that of the event given the split. Contexts that the event does
    not concern keep their probabilities.

    Args:
        log_theta: the log-probability of each split given its context, ``batch_shape + (M,)``.
        graph: the graph of the M splits.
        done: which of the splits make the event happen, ``(M,)``; at most one of them lies below any split.
        event: a description of the event, for an error message.

    Raises:
        ValueError: if the event has probability zero.
    """
    given_split, given_context = event_log_prob(log_theta, graph, done)
    if bool((given_context[..., 0] == -math.inf).any()):
        raise ValueError(f"{event} has probability zero: condition on one that occurs in the support")
    possible = given_context.index_select(-1, graph.segment) > -math.inf
    return torch.where(possible, log_theta + given_split, log_theta)


def clade_splits(support: SubsplitSupport, clade: Iterable[str | int], rooted: bool) -> Tensor | None:
    """Return which splits part a clade, or also all other taxa if unrooted, ``(M,)``; None if all trees do."""
    words = support.clade(clade)
    size, n = int(clade_sizes(words.unsqueeze(0))), support.num_taxa
    if size in (1, n) or (size == n - 1 and not rooted):
        return None
    sides = [words] if rooted else [words, complements(words, n)]
    focal = support.layout.words[support.layout.focal]
    return torch.stack([_equal(focal, side) for side in sides]).any(0)[support.graph.segment]


def subsplit_splits(
    support: SubsplitSupport, first: Iterable[str | int], second: Iterable[str | int], rooted: bool
) -> Tensor:
    """Return which splits have these two children; if unrooted, or one of them and all remaining taxa, ``(M,)``.

    Raises:
        ValueError: if the two have taxa in common, or leave none for the third part of an unrooted tree.
    """
    one, other = support.clade(first), support.clade(second)
    if bool((one & other).any()):
        raise ValueError(f"the clades have {support.taxa_of(one & other)} in common: a subsplit is of disjoint clades")
    pairs = [(one, other)]
    if not rooted:
        rest = complements(one + other, support.num_taxa)
        if not bool(rest.any()):
            raise ValueError("the clades hold all taxa: on an unrooted tree this is a split, use given_clade")
        pairs += [(other, rest), (rest, one)]
    left, right = (support.layout.words[column] for column in support.layout.children.unbind(-1))
    done = [(_equal(left, a) & _equal(right, b)) | (_equal(left, b) & _equal(right, a)) for a, b in pairs]
    return torch.stack(done).any(0)


def _equal(words: Tensor, clade: Tensor) -> Tensor:
    return (words == clade).all(-1)
