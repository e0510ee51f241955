"""How well a way of fitting a subsplit Bayesian network predicts trees that it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_ext.distributions.trees.subsplit import SubsplitBayesianNetwork
from pyro_ext.ops.subsplits.rows import distinct_rows
from pyro_ext.phylo.support import SubsplitSupport
from pyro_ext.phylo.support_trees import trees_and_weights
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.utils.checks import positive_int, positive_number

__all__ = ["held_out_log_likelihood"]

_CHUNK = 1 << 19  # subsplits of trees looked up at a time
_MOST_DRAWS = 1e9  # that weights are taken for


@torch.no_grad()
def held_out_log_likelihood(
    trees: TreeSet | Tensor,
    weights: Tensor | Sequence[float] | None = None,
    *,
    folds: int = 5,
    floor: float = 2.220446049250313e-16,
    **options: Any,
) -> float:
    """Return the mean log-probability of trees under networks fitted without them, by cross-validation.

    The trees are put into folds, and each fold gets its log-probabilities from a network fitted to all others. Trees
    of equal weight are taken for a sample in its order: folds are blocks of it, since neighbours in a Markov chain are
    alike. Different weights, as in a table of topologies, are taken for numbers of draws, of which the least weight is
    one: draws are dealt to the folds in turn, so that a frequent tree is in all of them. The support is that of all
    trees, so that a network gives probability to subsplits it has not seen if, and only if, its prior does.

    Args:
        trees: a :class:`.TreeSet`, or canonical parent vectors ``(T, N)``.
        weights: the weights of the trees, ``(T,)``; those of the set, or equal ones, if None.
        folds: the number of folds, at least 2; as many as there are trees, or draws by weight, if these are fewer.
        floor: the least probability that a tree is taken to have; by default a tree that is missed costs 36 nats, as in
            published tables of divergences.
        **options: how to fit, see :meth:`.SubsplitBayesianNetwork.fit`.

    Returns:
        The mean, in nats, by the weights of the trees.

    Raises:
        ValueError: if there are fewer than two trees or folds, the floor is not positive, or an option is wrong.

    Example:
        >>> from pyro_ext.phylo import all_trees
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> trees = all_trees(5)[torch.rand(15).pow(4).multinomial(40, replacement=True)]
        >>> for alpha in (0.0, 0.1):
        ...     print(held_out_log_likelihood(trees, method="em", alpha=alpha))
        -6.89881
        -2.23094
    """
    positive_int("folds", folds, minimum=2)
    positive_number("floor", floor)
    given = trees_and_weights(trees, weights)
    total = len(given.parents)
    if total < 2:
        raise ValueError(f"trees holds {total} tree of positive weight: give two or more, to leave some out in turn")
    distinct, place = distinct_rows(given.parents)
    support = SubsplitSupport.from_trees(distinct, taxa=given.taxa)
    dealt = _dealt(given.weights, folds)
    sums = given.weights.new_zeros(len(dealt), len(distinct)).index_add(1, place, dealt)
    everything, mean = sums.sum(0), 0.0
    for own in sums:
        others = everything - own
        others[others <= 1e-12 * everything] = 0  # what rounding leaves of a tree that occurs in this fold only
        network, _ = SubsplitBayesianNetwork.fit(distinct, others, support=support, **options)
        asked = own > 0
        parts = distinct[asked].split(max(1, _CHUNK // (9 * distinct.shape[1])))
        log_prob = torch.cat([network.log_prob(part) for part in parts]).clamp_min(math.log(floor))
        mean += float((own[asked] * log_prob).sum())
    return mean


def _dealt(weights: Tensor, folds: int) -> Tensor:
    """Return the weight that each tree has in each fold, ``(F, T)``, F at most ``folds``."""
    total, numbers = len(weights), torch.arange(folds, device=weights.device).unsqueeze(-1)
    if bool((weights == weights[0]).all()):
        folds = min(folds, total)
        place = torch.arange(total, device=weights.device) * folds // total
        return torch.where(place == numbers[:folds], weights, 0.0)
    one = torch.maximum(weights.min(), weights.sum() / _MOST_DRAWS)
    draws = (weights / one * (1 - 1e-9)).ceil().long()  # the last one of a tree may be smaller
    stop = draws.cumsum(0)
    folds = min(folds, int(stop[-1]))
    fold = numbers[:folds]
    before, after = ((end - fold + folds - 1) // folds for end in (stop - draws, stop))
    lacks = torch.where((stop - 1) % folds == fold, draws * one - weights, 0.0)
    return ((after - before) * one - lacks).clamp_min(0)
