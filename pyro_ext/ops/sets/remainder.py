"""The most probable categories, and the mass of what remains: the split behind sum-and-sample."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops._log_space import LOG_NOTHING, floored, unfloored
from pyro_ext.ops._shapes import check_set_size
from pyro_ext.utils.checks import positive_int

__all__ = ["TopKRemainder", "optimal_num_summed", "topk_remainder"]


class TopKRemainder(NamedTuple):
    """The ``k`` most probable categories and the mass left after each of them.

    Attributes:
        index: the categories by decreasing probability, ties by number, int64 ``batch_shape + (k,)``.
        log_p: their log-probabilities, ``batch_shape + (k,)``.
        log_tail: entry ``j`` is the log of the mass outside the first ``j``, ``batch_shape + (k + 1,)``.
    """

    index: Tensor  # type: ignore[assignment]
    log_p: Tensor
    log_tail: Tensor


def topk_remainder(log_probs: Tensor, k: int) -> TopKRemainder:
    """Return the ``k`` most probable categories and the masses left after each, summed and never as ``1 - P``.

    The order is stable, so that ties are broken alike on every device.

    Args:
        log_probs: log-probabilities, ``batch_shape + (K,)``.
        k: how many of the most probable categories to return, at most ``K``.

    Returns:
        :class:`TopKRemainder`, in the type of ``log_probs`` (float64 inside), differentiable.

    Raises:
        ValueError: if ``k`` is not an integer in ``1..K``.

    References:
        | Rao-Blackwellized stochastic gradients for discrete distributions (Liu et al., 2019), section 3
        | https://arxiv.org/abs/1810.04777

    >>> top = topk_remainder(torch.tensor([0.2, 0.5, 0.3]).log(), 2)
    >>> top.index, top.log_tail.exp()
    (tensor([1, 2]), tensor([1.0000, 0.5000, 0.2000]))
    """
    check_set_size(k, log_probs)
    index = _most_probable(log_probs.detach(), k)
    head = log_probs.gather(-1, index)
    tail = floored(log_probs.double().scatter(-1, index, LOG_NOTHING))
    outside = tail.logsumexp(-1, keepdim=True)
    log_tail = unfloored(torch.cat([floored(head.double()), outside], -1).flip(-1).logcumsumexp(-1).flip(-1))
    return TopKRemainder(index, head, log_tail.to(log_probs.dtype))


def _most_probable(log_probs: Tensor, k: int) -> Tensor:
    """Return the k most probable categories, ties by number, as a stable sort does; on the CPU without sorting all."""
    if log_probs.device.type == "cpu" and k < log_probs.shape[-1]:  # elsewhere a look at values waits for the device
        values, index = log_probs.topk(k + 1, dim=-1)
        if bool((values[..., k - 1] > values[..., k]).all()):  # no tie across the border, nor NaN
            index = index[..., :k].sort(dim=-1).values
            order = log_probs.gather(-1, index).sort(dim=-1, descending=True, stable=True).indices
            return index.gather(-1, order)
    return log_probs.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def optimal_num_summed(log_tail: Tensor, budget: int) -> Tensor:
    r"""Return how many of ``budget`` evaluations to spend on the most probable categories.

    The number ``j`` minimises :math:`r_j / (n - j)`, the remaining mass over the evaluations left for it: a bound
    on the variance without a baseline. All are summed where they hold all the mass.

    Args:
        log_tail: log of the mass outside the first ``j`` categories, ``batch_shape + (n + 1,)`` or longer.
        budget: the number ``n`` of evaluations, at least 1.

    Returns:
        int64 ``batch_shape``, in ``0..budget``.

    Raises:
        ValueError: if ``budget`` is not a positive integer or ``log_tail`` is too short for it.

    References:
        | Rao-Blackwellized stochastic gradients for discrete distributions (Liu et al., 2019), section 3.2
        | https://arxiv.org/abs/1810.04777

    >>> top = topk_remainder(torch.tensor([0.9, 0.04, 0.03, 0.03]).log(), 3)
    >>> optimal_num_summed(top.log_tail, 3)
    tensor(1)
    """
    positive_int("budget", budget)
    if log_tail.shape[-1] <= budget:
        raise ValueError(
            f"log_tail has {log_tail.shape[-1]} entries: a budget of {budget} needs {budget + 1}, "
            f"as from topk_remainder(log_probs, {budget})"
        )
    spare = torch.arange(budget, 0, -1, dtype=log_tail.dtype, device=log_tail.device).log()
    criterion = log_tail[..., :budget] - spare
    nothing_left = log_tail[..., budget : budget + 1] == -math.inf
    last = torch.where(nothing_left, -math.inf, math.inf).to(log_tail.dtype)
    return torch.cat([criterion, last], -1).argmin(-1)
