"""Laws of trees given that a clade or a subsplit occurs: laws of the same kind, with other logits."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.bits import clade_sizes, complements
from pyro_ext.ops.subsplits.graph import SplitGraph
from pyro_ext.ops.subsplits.programs import event_log_prob
from pyro_ext.phylo.support import SubsplitSupport

__all__ = ["clade_splits", "logits_given", "subsplit_splits"]


def logits_given(log_theta: Tensor, graph: SplitGraph, done: Tensor, event: str) -> Tensor:
    """Return the logits of the law given that one of some splits is made.

    Each split is weighed by the probability that the event still happens after it; where it cannot matter any more,
    the law stays what it is.

    Args:
        log_theta: ``batch_shape + (M,)``.
        graph: of the M splits.
        done: the splits, ``(M,)``; at most one of them lies below any split.
        event: in words, for an error message.

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
