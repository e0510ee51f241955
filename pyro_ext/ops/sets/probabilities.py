"""Probabilities of draws without replacement, in a given order and in any, and leave-one-out ratios of sets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_ext.ops._log_space import floored, is_nothing, unfloored
from pyro_ext.ops._shapes import check_members
from pyro_ext.ops.sets._set_sums import INTEGRAL, SUBSETS, Method
from pyro_ext.utils.checks import one_of

__all__ = ["first_and_second_log_ratios", "leave_one_out_log_ratios", "order_log_prob", "set_log_prob"]

# Above this size the integral is faster than the 2^k subsets.
_LARGEST_SUBSET_PROGRAM = 11


def _method(k: int) -> Method:
    return SUBSETS if k <= _LARGEST_SUBSET_PROGRAM else INTEGRAL


def _flatten(log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(B, k)`` and ``(B,)`` in float64, floored."""
    check_members(log_p, log_rest)
    batch, k = math.prod(log_rest.shape), log_p.shape[-1]
    return floored(log_p.double()).reshape(batch, k), floored(log_rest.double()).reshape(batch)


def set_log_prob(log_p: Tensor, log_rest: Tensor) -> Tensor:
    r"""Return the log-probability that draws without replacement give the set, in any order.

    .. math::  p(S) = \sum_{\text{orders } b \text{ of } S} \prod_i \frac{p_{b_i}}{1 - \sum_{j<i} p_{b_j}}

    summed over subsets in log space for ``k <= 11`` and by quadrature above; float64 inside.

    Args:
        log_p: log-probabilities of the members, ``batch_shape + (k,)``.
        log_rest: log of the mass of all categories outside the set, ``batch_shape``; -inf for none.

    Returns:
        ``batch_shape``, in the type of ``log_p``, differentiable. -inf where a member has no mass while other
        categories have.

    Raises:
        ValueError: if the shapes disagree.

    References:
        | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020),
        | equation 5, https://arxiv.org/abs/2002.06043

    >>> members, rest = torch.tensor([0.5, 0.3]).log(), torch.tensor(0.2).log()
    >>> set_log_prob(members, rest).exp()  # 0.5 * 0.3 / 0.5 + 0.3 * 0.5 / 0.7
    tensor(0.5143)
    """
    flat_p, flat_rest = _flatten(log_p, log_rest)
    value = _method(log_p.shape[-1]).log_set_prob(flat_p, flat_rest)
    impossible = is_nothing(flat_p).any(-1) & ~is_nothing(flat_rest)
    return value.masked_fill(impossible, -math.inf).reshape(log_rest.shape).to(log_p.dtype)


def order_log_prob(log_p: Tensor, log_rest: Tensor) -> Tensor:
    r"""Return the log-probability that draws without replacement give the categories in just this order.

    .. math::  p(b) = \prod_{i=1}^k \frac{p_{b_i}}{\sum_{j \ge i} p_{b_j} + r}

    with ``r`` the mass of the categories never drawn.

    Args:
        log_p: log-probabilities of the categories in draw order, ``batch_shape + (k,)``.
        log_rest: log of the mass of all other categories, ``batch_shape``; -inf for none.

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


@torch.no_grad()
def first_and_second_log_ratios(log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the leave-one-out log-ratios of first and second order, computed together.

    .. math::
        R(S, s) = \frac{p^{D \setminus s}(S \setminus s)}{p(S)}, \qquad R^{D \setminus s}(S, s') =
        \frac{p^{D \setminus \{s, s'\}}(S \setminus \{s, s'\})}{p^{D \setminus s}(S \setminus s)}

    where :math:`p^{D \setminus A}` draws from the domain without ``A``. They obey
    :math:`\sum_s p_s R(S, s) = 1` and :math:`\sum_{s'} p_{s'} R^{D \setminus s}(S, s') = 1` for ``k >= 2``, and are
    1 if the set holds all the mass. Subsets are summed in log space for ``k <= 11`` (cost ``k 2^k``); above, one
    integral on a fixed grid gives everything. No near-equal numbers are subtracted: errors stay near 1e-14.

    Args:
        log_p: log-probabilities of the members, ``batch_shape + (k,)``.
        log_rest: log of the mass of all categories outside the set, ``batch_shape``; -inf for none.

    Returns:
        ``log R(S, s)``, ``batch_shape + (k,)``, and ``log R^{D-s}(S, s')``, ``batch_shape + (k, k)`` with row ``s``,
        column ``s'`` and diagonal 0; both in the type of ``log_p``, without gradient (they are weights).

    Raises:
        ValueError: if the shapes disagree.

    References:
        | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020),
        | section 4 and equations 8 and 14, https://arxiv.org/abs/2002.06043

    >>> p = torch.tensor([0.5, 0.3])
    >>> first, second = first_and_second_log_ratios(p.log(), torch.tensor(0.2).log())
    >>> (p * first.exp()).sum(), (p * second.exp()).sum(-1)
    (tensor(1.), tensor([1., 1.]))
    """
    flat_p, flat_rest = _flatten(log_p, log_rest)
    k = log_p.shape[-1]
    first, second = _method(k).log_ratios(flat_p, flat_rest)
    return first.reshape(log_p.shape).to(log_p.dtype), second.reshape(*log_p.shape, k).to(log_p.dtype)


def leave_one_out_log_ratios(log_p: Tensor, log_rest: Tensor, order: int = 1) -> Tensor:
    """Return the leave-one-out log-ratios of one order; see :func:`first_and_second_log_ratios`.

    Args:
        log_p: log-probabilities of the members, ``batch_shape + (k,)``.
        log_rest: log of the mass of all categories outside the set, ``batch_shape``; -inf for none.
        order: 1 for ``log R(S, s)``, ``batch_shape + (k,)``; 2 for ``log R^{D-s}(S, s')``,
            ``batch_shape + (k, k)`` with row ``s``, column ``s'`` and diagonal 0.

    Raises:
        ValueError: if the shapes disagree or ``order`` is neither 1 nor 2.

    >>> leave_one_out_log_ratios(torch.tensor([0.5, 0.3]).log(), torch.tensor(0.2).log()).exp()
    tensor([1.1667, 1.3889])
    """
    one_of("order", order, (1, 2))
    return first_and_second_log_ratios(log_p, log_rest)[order - 1]
