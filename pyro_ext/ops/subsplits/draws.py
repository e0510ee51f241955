"""Trees of a graph of subsplits, drawn at random or all listed: the splits of each tree in preorder."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.graph import SplitGraph, Steps

__all__ = ["all_choices", "draw_choices"]


@torch.no_grad()
def draw_choices(log_theta: Tensor, graph: SplitGraph, which: Tensor) -> Tensor:
    """Draw trees top-down, all of them at once, one split after the other.

    A split is drawn by bisection of the cumulative probabilities of all contexts in a row, in float64.

    Args:
        log_theta: log-probabilities of the M splits given their contexts, in B distributions, ``(B, M)``.
        graph: the graph of subsplits that the splits belong to.
        which: the number of the distribution that each of the T trees is drawn from, int64 ``(T,)``.

    Returns:
        The splits of each tree in preorder, int64 ``(T, J)``.
    """
    theta = log_theta.double().exp()
    cumulative = theta.reshape(-1).cumsum(0)
    bounds, steps = _Bounds(theta, cumulative, graph), Steps(graph)
    offset = None if len(theta) == 1 else (which * graph.num_contexts, which * graph.num_splits)
    uniform = torch.rand(graph.num_choices, len(which), dtype=theta.dtype, device=theta.device)
    slots = which.new_zeros(len(which), graph.num_choices + 1)
    choices = []
    for k in range(graph.num_choices):
        context = slots[:, k] if offset is None else slots[:, k] + offset[0]
        low, high = bounds.ends.index_select(0, context).unbind(-1)
        place = torch.searchsorted(cumulative, torch.lerp(low, high, uniform[k]), right=True)
        # rounding may carry a point past the last split that is possible
        place = torch.minimum(place, bounds.last.index_select(0, context))
        choices.append(place if offset is None else place - offset[1])
        steps.follow(slots, k, choices[-1])
    return torch.stack(choices, -1)


class _Bounds:
    """Bounds of every context in every distribution, both flattened into one dim.

    Attributes:
        ends: the cumulative probability before and after the context's splits, ``(B S, 2)``.
        last: the last split of the context that has a positive probability, ``(B S,)``.
    """

    def __init__(self, theta: Tensor, cumulative: Tensor, graph: SplitGraph) -> None:
        num_batch, num_splits = theta.shape
        offset = torch.arange(num_batch, device=theta.device).unsqueeze(-1) * num_splits
        padded = torch.cat([cumulative.new_zeros(1), cumulative])
        before = padded[graph.start + offset]
        self.ends = torch.stack([before[:, :-1], before[:, 1:]], -1).reshape(-1, 2)
        place = torch.arange(theta.numel(), device=theta.device).view_as(theta)
        possible = torch.where(theta > 0, place, offset)
        last = place.new_zeros(num_batch, graph.num_contexts)
        segment = graph.segment.expand(num_batch, -1)
        self.last = last.scatter_reduce(-1, segment, possible, "amax").reshape(-1)


def all_choices(graph: SplitGraph) -> Tensor:
    """List every tree of the graph.

    Args:
        graph: the graph of subsplits, which must have few trees.

    Returns:
        The splits of each tree in preorder, int64 ``(T, J)``.
    """
    slots = graph.segment.new_zeros(1, graph.num_choices + 1)
    choices, steps = graph.segment.new_zeros(1, 0), Steps(graph)
    for k in range(graph.num_choices):
        context = slots[:, k]
        first = graph.start.index_select(0, context)
        degree = graph.start.index_select(0, context + 1) - first
        row = torch.repeat_interleave(degree)
        number = torch.arange(len(row), device=row.device) - (degree.cumsum(0) - degree).index_select(0, row)
        split = first.index_select(0, row) + number
        choices = torch.cat([choices.index_select(0, row), split.unsqueeze(-1)], -1)
        slots = steps.follow(slots.index_select(0, row), k, split)
    return choices
