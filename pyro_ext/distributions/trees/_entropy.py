"""The entropy of unrooted trees: between two bounds that follow from the entropy of rooted trees."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.distributions.trees._ranking import ranked_parts, rootings_of, unseen_trees
from pyro_ext.ops.subsplits.assembly import unrooted_trees
from pyro_ext.ops.subsplits.best import BestTrees
from pyro_ext.ops.subsplits.programs import entropy
from pyro_ext.ops.subsplits.rootings import log_sum, with_constants
from pyro_ext.phylo.support import SubsplitSupport

__all__ = ["EntropyBounds", "unrooted_entropy_bounds"]


class EntropyBounds(NamedTuple):
    """Between what bounds an entropy lies, in nats.

    Attributes:
        lower: the lower bound, ``batch_shape``.
        upper: the upper bound, ``batch_shape``.
    """

    lower: Tensor
    upper: Tensor


def unrooted_entropy_bounds(log_theta: Tensor, support: SubsplitSupport, limit: int) -> tuple[float, float]:
    r"""Return bounds on the entropy of an unrooted tree.

    .. math::  H(T^u) = H(T) - \sum_{T^u} p(T^u) H(\text{root} \mid T^u),

    where the entropy of the rooted tree is exact, that of the root is known for every tree listed, and between 0 and
    the log of the number of places for all others.

    Args:
        log_theta: log-probabilities of the splits, float64 ``(M,)``, on the CPU.
        support: the support of the subsplits, on the CPU.
        limit: the largest number of rooted trees that are listed.
    """
    graph, table = support.graph, with_constants(log_theta)
    seen: dict[bytes, None] = {}
    of_roots, mass, ended = 0.0, 0.0, True
    for part in ranked_parts(BestTrees(log_theta, graph), limit):
        if part is None:
            ended = False
            break
        trees = unseen_trees(unrooted_trees(part[0], graph).parents, seen)
        if len(trees):
            rootings = rootings_of(table, support, trees)
            log_prob = log_sum(rootings)
            given_tree = torch.special.entr((rootings - log_prob.unsqueeze(-1)).exp()).sum(-1)
            of_roots += float((log_prob.exp() * given_tree).sum())
            mass += float(log_prob.exp().sum())
    upper = float(entropy(log_theta, graph)) - of_roots
    places = min(2 * support.num_taxa - 3, support.num_rootsplits)
    rest = 0.0 if ended else max(1.0 - mass, 0.0)
    return max(upper - rest * math.log(places), 0.0), max(upper, 0.0)
