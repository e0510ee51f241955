"""Probabilities of draws without replacement in a given order."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.ops.sets._log_space import floored, unfloored
from pyro_ext.ops.sets._shapes import check_members

__all__ = ["order_log_prob"]


def order_log_prob(log_p: Tensor, log_rest: Tensor) -> Tensor:
    r"""Return the log-probability of drawing the categories in just this order, without replacement.

    .. math::  p(b) = \prod_{i=1}^k \frac{p_{b_i}}{\sum_{j \ge i} p_{b_j} + r}

    with ``r`` the mass of the categories never drawn.

    Args:
        log_p: log-probabilities of the categories in draw order, ``batch_shape + (k,)``.
        log_rest: log of the mass of all others, ``batch_shape``; -inf for none.

    Returns:
        ``batch_shape``, in the type of ``log_p`` (float64 inside), differentiable; -inf where a category has no mass
        while others do.

    Raises:
        ValueError: if the shapes disagree.

    References:
        | The analysis of permutations (Plackett, 1975), https://doi.org/10.2307/2346567

    >>> order_log_prob(torch.tensor([0.5, 0.3]).log(), torch.tensor(0.2).log()).exp()  # 0.5 * 0.3 / 0.5
    tensor(0.3000)
    """
    check_members(log_p, log_rest)
    masses = floored(torch.cat([log_p.double(), log_rest.double().unsqueeze(-1)], -1))
    remaining = masses.flip(-1).logcumsumexp(-1).flip(-1)
    return unfloored((masses - remaining)[..., :-1].sum(-1)).to(log_p.dtype)
