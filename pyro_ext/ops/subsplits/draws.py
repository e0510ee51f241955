"""Trees drawn from, or listed by, a graph of subsplits: the splits of each tree in preorder."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.graph import SplitGraph, follow

__all__ = ["all_choices", "draw_choices"]


@torch.no_grad()
def draw_choices(log_theta: Tensor, graph: SplitGraph, law: Tensor) -> Tensor:
    """Draw trees top-down, all of them at once, one split after the other.

    A split is found by bisection of the cumulative probabilities of all contexts in a row, in float64.

    Args:
        log_theta: log-probabilities of the splits given their contexts, ``(B, M)``.
        graph: of the splits.
        law: by which of the B laws each tree is drawn, int64 ``(T,)``.

    Returns:
        The splits of each tree in preorder, int64 ``(T, J)``.
    """
    num_splits = log_theta.shape[-1]
    theta = log_theta.double().exp()
    cumulative = theta.reshape(-1).cumsum(0)
    slots = law.new_zeros(len(law), graph.num_choices + 1)
    bounds = _Bounds(theta, cumulative, graph)
    choices = []
    for k in range(graph.num_choices):
        context = law * graph.num_contexts + slots[:, k]
        low, high = bounds.low.index_select(0, context), bounds.high.index_select(0, context)
        point = torch.lerp(low, high, torch.rand_like(low))
        place = torch.searchsorted(cumulative, point, right=True)
        # rounding may carry a point past the last split that is possible
        place = torch.minimum(place, bounds.last.index_select(0, context))
        choices.append(place - law * num_splits)
        slots = follow(graph, slots, k, choices[-1])
    return torch.stack(choices, -1)


class _Bounds:
    """Of every law and context, flattened: the cumulative probability before and after, and the last split."""

    def __init__(self, theta: Tensor, cumulative: Tensor, graph: SplitGraph) -> None:
        num_laws, num_splits = theta.shape
        offset = torch.arange(num_laws, device=theta.device).unsqueeze(-1) * num_splits
        padded = torch.cat([cumulative.new_zeros(1), cumulative])
        self.low = padded[graph.start[:-1] + offset].reshape(-1)
        self.high = padded[graph.start[1:] + offset].reshape(-1)
        place = torch.arange(theta.numel(), device=theta.device).view_as(theta)
        possible = torch.where(theta > 0, place, offset)
        last = place.new_zeros(num_laws, graph.num_contexts)
        segment = graph.segment.expand(num_laws, -1)
        self.last = last.scatter_reduce(-1, segment, possible, "amax").reshape(-1)


def all_choices(graph: SplitGraph) -> Tensor:
    """List every tree of the graph.

    Returns:
        The splits of each tree in preorder, int64 ``(T, J)``.
    """
    slots = graph.segment.new_zeros(1, graph.num_choices + 1)
    choices = graph.segment.new_zeros(1, 0)
    for k in range(graph.num_choices):
        context = slots[:, k]
        first = graph.start.index_select(0, context)
        degree = graph.start.index_select(0, context + 1) - first
        row = torch.repeat_interleave(degree)
        number = torch.arange(len(row), device=row.device) - (degree.cumsum(0) - degree).index_select(0, row)
        split = first.index_select(0, row) + number
        choices = torch.cat([choices.index_select(0, row), split.unsqueeze(-1)], -1)
        slots = follow(graph, slots.index_select(0, row), k, split)
    return choices
