"""Divergences between distributions of trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions.kl import register_kl

from pyro_ext.distributions.trees._splits import SplitDistribution
from pyro_ext.distributions.trees.clade import ConditionalCladeDistribution
from pyro_ext.distributions.trees.subsplit import SubsplitBayesianNetwork
from pyro_ext.ops.subsplits.programs import expected_log_ratio
from pyro_ext.ops.subsplits.rows import distinct_rows
from pyro_ext.phylo.support_trees import difference, trees_and_weights
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.utils.checks import positive_number

__all__ = ["log_prob_in_parts", "tree_dispersion", "tree_kl"]

_CHUNK = 1 << 19  # subsplits of trees looked up in one go


@torch.no_grad()
def tree_kl(
    trees: TreeSet | Tensor,
    d: Any,
    weights: Tensor | Sequence[float] | None = None,
    *,
    floor: float | None = None,
    normalize: bool = True,
) -> Tensor:
    r"""Return the Kullback-Leibler divergence of a distribution of trees from the frequencies of a sample.

    .. math::  \sum_T g_T \left(\log g_T - \log \max(q(T), \text{floor})\right).

    Args:
        trees: a :class:`.TreeSet`, or canonical parent vectors ``(T, N)``; equal topologies are added up.
        d: the distribution q, with ``log_prob``, over the same taxa.
        weights: the weights g of the trees, ``(T,)``; those of the set, or equal ones, if None.
        floor: the least probability a tree is taken to have. Without it the divergence is infinite as soon as q
            misses a tree. Published tables have 2.220446e-16, which makes a tree that is missed cost 36 nats.
        normalize: whether the weights are scaled to sum to 1; published tables leave them as they are.

    Returns:
        The divergence in nats, in the batch shape of the distribution.

    Raises:
        ValueError: if there are no trees, they do not fit the distribution or have other taxa, the weights are negative
            or all zero, or the floor is not positive.

    Example:
        >>> from pyro_ext.distributions import TreeFrequency
        >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])
        >>> d = TreeFrequency.from_trees(trees, [0.9, 0.1])
        >>> tree_kl(trees, d)
        tensor(0.5108, dtype=torch.float64)
    """
    if floor is not None:
        positive_number("floor", floor)
    distinct, share = _distinct(trees, d, weights)
    if not normalize and weights is None and not isinstance(trees, Tensor):
        weights = trees.weights
    if not normalize and weights is not None:
        share = share * torch.as_tensor(weights, dtype=torch.float64).sum().to(share.device)
    log_prob = log_prob_in_parts(d, distinct).double()
    if floor is not None:
        log_prob = log_prob.exp().clamp_min(floor).log()
    share = share.view(-1, *(1,) * len(d.batch_shape))
    return (share * (share.log() - log_prob)).sum(0)


@torch.no_grad()
def tree_dispersion(trees: TreeSet | Tensor, d: Any, weights: Tensor | Sequence[float] | None = None) -> Tensor:
    r"""Return how widely the probabilities of single trees scatter around their frequencies in a sample.

    .. math::  \frac{\sum_T g_T |\log q(T) - \log g_T|}{\sum_T g_T},

    over the trees of positive probability under q. A dispersion of 0.1 says that probabilities are off by about 10 %;
    it does not see trees that q misses, which make :func:`tree_kl` infinite, and is hardly moved by trees of almost no
    probability.

    Args:
        trees: a :class:`.TreeSet`, or canonical parent vectors ``(T, N)``; equal topologies are added up.
        d: the distribution q, with ``log_prob``, over the same taxa.
        weights: the weights g of the trees, ``(T,)``; those of the set, or equal ones, if None.

    Returns:
        The dispersion in nats, in the batch shape of the distribution; nan if q misses all trees.

    Raises:
        ValueError: if there are no trees, they do not fit the distribution or have other taxa, or the weights are
            negative or all zero.

    References:
        | Generalizing tree probability estimation via Bayesian networks (Zhang & Matsen, 2018), whose figures
          plot estimated probabilities against those of a long run
        | https://arxiv.org/abs/1805.07834

    Example:
        >>> from pyro_ext.distributions import TreeFrequency
        >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])
        >>> tree_dispersion(trees, TreeFrequency.from_trees(trees, [0.9, 0.1]))
        tensor(1.0986, dtype=torch.float64)
    """
    distinct, share = _distinct(trees, d, weights)
    log_prob = log_prob_in_parts(d, distinct).double()
    share = share.view(-1, *(1,) * len(d.batch_shape)) * (log_prob > -torch.inf)
    distance = (log_prob - share.log()).abs()
    return torch.where(share > 0, share * distance, 0.0).sum(0) / share.sum(0)


def _distinct(trees: TreeSet | Tensor, d: Any, weights: Tensor | Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """Return the distinct trees ``(T, N)`` and their shares of the weight ``(T,)``, once they fit the distribution."""
    given = trees_and_weights(trees, weights)
    if isinstance(trees, TreeSet) and isinstance(d, SplitDistribution) and trees.taxa != d.subsplits.taxa:
        raise ValueError(f"trees and distribution {difference(trees.taxa, d.subsplits.taxa)}: relabel the trees")
    distinct, number = distinct_rows(given.parents)
    if distinct.shape[1:] != d.event_shape:
        raise ValueError(f"trees have {distinct.shape[1]} nodes but those of {d!r} {d.event_shape[0]}")
    return distinct, given.weights.new_zeros(len(distinct)).index_add(0, number, given.weights)


@torch.no_grad()
def log_prob_in_parts(d: Any, trees: Tensor) -> Tensor:
    """Return the log-probabilities of trees ``(T, N)``, ``(T,) + batch_shape``, some thousands of them at a time.

    However many the trees, the memory is that of some tens of megabytes for each distribution of the batch.
    """
    ones = (1,) * len(d.batch_shape)
    parts = trees.split(max(1, _CHUNK // (9 * trees.shape[1])))
    return torch.cat([d.log_prob(part.view(len(part), *ones, -1)) for part in parts])


@register_kl(SubsplitBayesianNetwork, SubsplitBayesianNetwork)
@register_kl(ConditionalCladeDistribution, ConditionalCladeDistribution)
def _kl(p: SplitDistribution, q: SplitDistribution) -> Tensor:
    p._require_one_rooting("the divergence")
    q._require_one_rooting("the divergence")
    if p.subsplits != q.subsplits:
        raise NotImplementedError(f"{p!r} and {q!r} have different supports: build both on their union")
    log_p, log_q = torch.broadcast_tensors(p.log_theta, q.log_theta)
    return expected_log_ratio(log_p, log_q, p.graph)
