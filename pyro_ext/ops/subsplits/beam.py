"""Rooted trees drawn without replacement from a graph of subsplits, by stochastic beam search."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_ext.ops.sets.beam import SequenceSet, beam_step
from pyro_ext.ops.subsplits.graph import SplitGraph, Steps

__all__ = ["distinct_choices"]


@torch.no_grad()
def distinct_choices(log_theta: Tensor, graph: SplitGraph, k: int) -> SequenceSet:
    """Draw ``k`` distinct rooted trees without replacement.

    Args:
        log_theta: log-probabilities of the M splits given their contexts, in B distributions, ``(B, M)``.
        graph: the graph of subsplits that the splits belong to.
        k: the number of trees to draw; all trees are returned where there are fewer.

    Returns:
        The splits of each tree in preorder ``(B, m, J)``, with masses in float64; sequences of log-probability -inf
        come last.

    References:
        | Stochastic beams and where to find them (Kool et al., 2019)
        | https://arxiv.org/abs/1903.06059
    """
    num_batch, steps = len(log_theta), Steps(graph)
    slots = graph.segment.new_zeros(num_batch, 1, graph.num_choices + 1)
    choices = slots[..., :0]
    log_prob = log_theta.new_zeros(num_batch, 1, dtype=torch.float64)
    perturbed, rest = log_prob, log_prob.new_full((num_batch,), -math.inf)
    for slot in range(graph.num_choices):
        splits, children = _children(log_theta, graph, slots[..., slot])
        log_prob, perturbed, parent, action, rest = beam_step(log_prob, perturbed, children, k, rest)
        split = splits.gather(1, parent.unsqueeze(-1).expand(-1, -1, splits.shape[-1]))
        split = split.gather(2, action.unsqueeze(-1))
        choices = torch.cat([_rows(choices, parent), split], -1)
        slots = _rows(slots, parent)
        steps.follow(slots.flatten(0, 1), slot, split.flatten())
    return SequenceSet(choices, log_prob, rest)


def _rows(x: Tensor, parent: Tensor) -> Tensor:
    return x.gather(1, parent.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _children(log_theta: Tensor, graph: SplitGraph, context: Tensor) -> tuple[Tensor, Tensor]:
    """Return the splits of contexts ``(B, m)`` and their log-probabilities, -inf beyond the last, ``(B, m, C)``."""
    first = graph.start[context]
    degree = graph.start[context + 1] - first
    number = torch.arange(int(degree.max()), device=context.device)
    there = number < degree.unsqueeze(-1)
    splits = torch.where(there, first.unsqueeze(-1) + number, first.unsqueeze(-1))
    log_prob = log_theta.gather(1, splits.flatten(1)).view(splits.shape)
    return splits, log_prob.double().masked_fill(~there, -math.inf)
