"""Log-probabilities of trees from those of their subsplits: one rooting, or all rootings at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.kernels import use_kernels
from pyro_ext.ops.subsplits.keys import KeyTable, find_keys, subsplit_keys
from pyro_ext.ops.subsplits.relations import Relations, add_to_parents, relations_of, sum_above, sum_below
from pyro_ext.ops.subsplits.trees import Subsplits, clade_splits, rooted_subsplits, unrooted_subsplits

__all__ = ["TreeIndex", "expected_counts", "index_trees", "log_prob_rootings", "log_sum", "with_constants"]

_SUBSPLITS = {"rooted": rooted_subsplits, "unrooted": unrooted_subsplits, "clade": clade_splits}


class TreeIndex(NamedTuple):
    """The positions of the subsplits of T trees in a vector of M log-probabilities.

    Attributes:
        position: the position of each subsplit, ``0..M-1``, M if it is missing, M + 1 for an empty place, ``(T, L)``.
        relations: parents and sisters of the nodes of the trees.
    """

    position: Tensor
    relations: Relations


def subsplits_of(parents: Tensor, codes: Tensor, kind: str) -> tuple[Subsplits, Relations]:
    """Return the subsplits of trees ``(T, N)`` and their relations; ``kind`` as for :func:`index_trees`."""
    relations = relations_of(parents, len(codes))
    return _SUBSPLITS[kind](codes, relations), relations


def index_trees(parents: Tensor, codes: Tensor, table: KeyTable, kind: str) -> TreeIndex:
    """Look up the subsplits of a batch of trees.

    Args:
        parents: parent vectors, int64 ``(T, N)``.
        codes: the codes of the taxa, ``(n,)``.
        table: the table that looks up the M subsplits by their keys.
        kind: "rooted", "unrooted" (all rootings at once), or "clade" (splits without regard to sisters).

    Returns:
        :class:`TreeIndex`.
    """
    subsplits, relations = subsplits_of(parents, codes, kind)
    position = find_keys(table, subsplit_keys(subsplits.sister, subsplits.focal, subsplits.child))
    return TreeIndex(position.masked_fill_(~subsplits.used, len(table.keys)), relations)


def with_constants(log_theta: Tensor) -> Tensor:
    """Append the log-probability -inf of missing subsplits and 0 of empty places, ``(..., M + 2)``."""
    constants = log_theta.new_tensor([-math.inf, 0.0]).expand(*log_theta.shape[:-1], 2)
    return torch.cat([log_theta, constants], -1)


def log_prob_rootings(terms: Tensor, relations: Relations) -> Tensor:
    r"""Return the log-probability of each rooting of unrooted trees, by O(n) additions per tree.

    The sum over the subsplits of a tree rooted on one edge consists of sums over the subsplits below and above the
    edge, which are computed once for all edges.

    Args:
        terms: the log-probabilities of the subsplits of :func:`.unrooted_subsplits`, ``(T, L)``.
        relations: parents and sisters of the nodes of the trees.

    Returns:
        ``(T, 2 n - 3)``, entry ``i - 1`` for a root on the edge above node i.
    """
    num_internal = relations.num_internal
    num_nodes = relations.parent.shape[-1]
    n = num_nodes - num_internal
    root, upper, turn, split, away, beside = terms.split([num_nodes] * 3 + [num_internal] * 3, -1)
    below = sum_below(add_to_parents(away, relations.parent[:, n:], num_internal), relations.jumps)[:, :-1]
    # the sum over the subtrees beside the path from i's parent upwards; there are none for leaf 0's child
    leaves = terms.new_zeros(len(terms), n)
    hanging = torch.cat([leaves, leaves[:, :1], (beside + below)[:, 1:]], -1)
    passed = turn + hanging.reshape(-1).index_select(0, relations.sister.reshape(-1)).view_as(turn)
    way = sum_above(torch.cat([passed[:, n:], leaves[:, :1]], -1), relations.jumps)
    leaf_way = passed[:, :n] + way.reshape(-1).index_select(0, relations.parent[:, :n].reshape(-1)).view_as(leaves)
    own = torch.cat([leaf_way, way[:, :-1] + split + below], -1)
    return (root + upper + own)[:, 1:]


def log_sum(x: Tensor) -> Tensor:
    """Return ``logsumexp`` over the last dim; its gradient is 0, not NaN, where all entries are -inf."""
    never = (x == -math.inf).all(-1)
    total = x.masked_fill(never.unsqueeze(-1), 0).logsumexp(-1)
    return total.masked_fill(never, -math.inf)


def expected_counts(
    log_theta: Tensor, index: TreeIndex, weights: Tensor, uniform: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Return how often each subsplit is expected to occur in the trees, rooted at random.

    .. math::  \bar m_s = \sum_k w_k \sum_e q_k(e) 1[s \in T_k^e]
               = \frac{\partial}{\partial \log\theta_s} \sum_k w_k \log p(T_k).

    The gradient is computed without subtractions, so that small counts are positive and exact too.

    Args:
        log_theta: log-probabilities of the subsplits, ``(M,)``.
        index: the subsplits of T unrooted trees.
        weights: the weights of the trees, ``(T,)``.
        uniform: whether the root is on every edge with equal probability; if not, with its probability under
            ``log_theta``.

    Returns:
        The counts ``(M,)``, and the weighted sum of the log-probabilities.
    """
    if use_kernels(log_theta, index.position, weights) and log_theta.dtype == weights.dtype == torch.float64:
        from pyro_ext.ops.subsplits._count_kernel import count_in_rootings

        return count_in_rootings(log_theta, index.position, index.relations, weights, uniform)
    with torch.enable_grad():
        leaf = log_theta.detach().requires_grad_()
        terms = with_constants(leaf).index_select(0, index.position.reshape(-1)).view_as(index.position)
        rootings = log_prob_rootings(terms, index.relations)
        log_prob = rootings.mean(-1) if uniform else log_sum(rootings)
        total = (weights * log_prob.masked_fill(weights == 0, 0)).sum()
        (counts,) = torch.autograd.grad(total, leaf)
    return counts, total.detach()
