"""The probability of every clade, or split of the taxa, under a law of trees."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.segments import segment_logsumexp
from pyro_ext.ops.subsplits.bits import clade_sizes, complements, members
from pyro_ext.ops.subsplits.programs import log_reach
from pyro_ext.phylo.support import SubsplitSupport

__all__ = ["CladeMarginals", "clade_marginals"]


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
    log_prob = segment_logsumexp(reach[..., counted], number, len(clades))
    return CladeMarginals(members(clades, n), log_prob)
