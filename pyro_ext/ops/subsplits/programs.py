"""Dynamic programs over a graph of subsplits: exact sums over all its rooted trees that visit each split once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_ext.ops.segments import segment_logsumexp, segment_max, segment_sum
from pyro_ext.ops.subsplits.graph import SplitGraph

__all__ = [
    "best_choices",
    "best_log_probs",
    "count_trees",
    "entropy",
    "event_log_prob",
    "expected_log_ratio",
    "fold",
    "log_count",
    "log_reach",
]

Combine = Callable[[slice, Tensor, int, Tensor, Tensor], Tensor]


def fold(graph: SplitGraph, combine: Combine, leaf: Tensor) -> Tensor:
    """Compute a value of every context from those of the contexts below it, the smallest clades first.

    Args:
        graph: the graph of subsplits, with S contexts and M splits.
        combine: a function called as ``combine(splits, segment, num, first, second)`` for the contexts of each clade
            size. It takes the range of their m splits, the context of each split, counted from 0, the number of
            contexts, and the values of the first and the second child of each split, ``batch_shape + (m,)``; it returns
            the values of the contexts, ``batch_shape + (num,)``.
        leaf: the value of a leaf, ``batch_shape``.

    Returns:
        ``batch_shape + (S,)``; the value of the clade of all taxa comes first.
    """
    values = leaf.unsqueeze(-1)
    for level in reversed(range(len(graph.levels) - 1)):
        first, last = graph.levels[level], graph.levels[level + 1]
        splits = slice(graph.level_splits[level], graph.level_splits[level + 1])
        children = graph.child_segment[:, splits] - last
        values_of = (values.index_select(-1, column) for column in children)
        here = combine(splits, graph.segment[splits] - first, last - first, *values_of)
        values = torch.cat([here, values], -1)
    return values[..., :-1]


def entropy(log_theta: Tensor, graph: SplitGraph) -> Tensor:
    """Return the entropy of the rooted tree in nats, ``batch_shape``, for ``batch_shape + (M,)``."""
    return -expected_log_ratio(log_theta, torch.zeros_like(log_theta), graph)


def expected_log_ratio(log_theta: Tensor, other: Tensor, graph: SplitGraph) -> Tensor:
    r"""Return the mean of :math:`\log p(T) - \log q(T)` under p, ``batch_shape``.

    Args:
        log_theta: log-probabilities of the splits under p, ``batch_shape + (M,)``.
        other: log-probabilities of the splits under q, ``batch_shape + (M,)``; the mean is infinite where one of them
            is -inf and that under p is not.
        graph: the graph of subsplits that the splits belong to.
    """
    never = log_theta == -math.inf
    theta, ratio = log_theta.exp(), log_theta.masked_fill(never, 0) - other.masked_fill(never, 0)

    def combine(splits: slice, segment: Tensor, num: int, first: Tensor, second: Tensor) -> Tensor:
        possible = ~never[..., splits]
        below = torch.where(possible, ratio[..., splits] + first + second, 0)
        return segment_sum(theta[..., splits] * below, segment, num)

    return fold(graph, combine, log_theta.new_zeros(log_theta.shape[:-1]))[..., 0]


def log_count(graph: SplitGraph) -> Tensor:
    """Return the log of the number of rooted trees below every context, float64 ``(S,)``."""

    def combine(splits: slice, segment: Tensor, num: int, first: Tensor, second: Tensor) -> Tensor:
        return segment_logsumexp(first + second, segment, num)

    return fold(graph, combine, torch.zeros((), dtype=torch.float64, device=graph.start.device))


def count_trees(graph: SplitGraph) -> int:
    """Return the exact number of rooted trees, in Python's integers, which do not overflow."""
    start, children = graph.start.tolist(), graph.child_segment.t().tolist()
    counts = [1] * (graph.num_contexts + 1)
    for context in reversed(range(graph.num_contexts)):
        splits = children[start[context] : start[context + 1]]
        counts[context] = sum(counts[first] * counts[second] for first, second in splits)
    return counts[0]


def event_log_prob(log_theta: Tensor, graph: SplitGraph, done: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probability that a tree has one of some splits, given each split and each context above them.

    At most one of these splits may lie below any split.

    Args:
        log_theta: log-probabilities of the splits, ``batch_shape + (M,)``.
        graph: the graph of subsplits that the splits belong to.
        done: whether each split is one of them, bool ``(M,)``.

    Returns:
        Given each split, ``batch_shape + (M,)``, and given each context, ``batch_shape + (S,)``.
    """
    given_split = []

    def combine(splits: slice, segment: Tensor, num: int, first: Tensor, second: Tensor) -> Tensor:
        here = torch.maximum(first, second).masked_fill(done[splits], 0)
        given_split.append(here)
        return segment_logsumexp(log_theta[..., splits] + here, segment, num)

    given_context = fold(graph, combine, log_theta.new_full(log_theta.shape[:-1], -math.inf))
    return torch.cat(given_split[::-1], -1), given_context


def best_choices(log_theta: Tensor, graph: SplitGraph) -> tuple[Tensor, Tensor]:
    """Return the split of every context that the most probable tree below that context has.

    Args:
        log_theta: log-probabilities of the splits, ``batch_shape + (M,)``.
        graph: the graph of subsplits that the splits belong to.

    Returns:
        The splits, int64 ``batch_shape + (S,)``, and the log-probability of the best tree, ``batch_shape``.
    """
    best = []

    def combine(splits: slice, segment: Tensor, num: int, first: Tensor, second: Tensor) -> Tensor:
        value = log_theta[..., splits] + first + second
        top = segment_max(value, segment, num)
        number = torch.arange(splits.start, splits.stop, device=value.device).expand(value.shape)
        attained = torch.where(value == top.index_select(-1, segment), number, -1)
        slots = number.new_full((*value.shape[:-1], num), -1)
        best.append(slots.scatter_reduce(-1, segment.expand(value.shape), attained, "amax"))
        return top

    top = fold(graph, combine, log_theta.new_zeros(log_theta.shape[:-1]))[..., 0]
    return torch.cat(best[::-1], -1), top


def best_log_probs(log_theta: Tensor, graph: SplitGraph) -> Tensor:
    """Return the log-probability of the best tree below every context, ``batch_shape + (S,)``."""

    def combine(splits: slice, segment: Tensor, num: int, first: Tensor, second: Tensor) -> Tensor:
        return segment_max(log_theta[..., splits] + first + second, segment, num)

    return fold(graph, combine, log_theta.new_zeros(log_theta.shape[:-1]))


def log_reach(log_theta: Tensor, graph: SplitGraph) -> Tensor:
    r"""Return the log-probability of every context to occur in a tree, ``batch_shape + (S,)``.

    .. math::  \log \pi_t = \log \sum_{s \to t} \pi_{t(s)} \theta_s,

    over the splits s that lead to t, from the largest clades down.

    Args:
        log_theta: log-probabilities of the splits, ``batch_shape + (M,)``.
        graph: the graph of subsplits that the splits belong to.
    """
    target, order = graph.child_segment.reshape(-1).sort(stable=True)
    split = order % graph.num_splits
    bounds = torch.searchsorted(target, target.new_tensor(graph.levels)).tolist()
    reach = log_theta.new_zeros(*log_theta.shape[:-1], graph.levels[1])
    for level in range(1, len(graph.levels) - 1):
        first, last = graph.levels[level], graph.levels[level + 1]
        into = slice(bounds[level], bounds[level + 1])
        mass = reach.index_select(-1, graph.segment[split[into]]) + log_theta.index_select(-1, split[into])
        reach = torch.cat([reach, segment_logsumexp(mass, target[into] - first, last - first)], -1)
    return reach
