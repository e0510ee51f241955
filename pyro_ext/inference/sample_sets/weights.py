r"""Weights and baselines: what tells one sample-set estimator from another.

Each estimator of :math:`\nabla E_q f` is given by values, weights :math:`w_s` and a baseline matrix ``C`` with
:math:`(w b)_s = \sum_{s'} C_{s's} (w f)_{s'}`, the product of a weight and its baseline. In this form no weight is
ever divided by, so weights of zero are safe.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.sets import first_and_second_log_ratios

__all__ = [
    "SetWeights",
    "enumeration_weights",
    "leave_one_out_weights",
    "sum_and_sample_weights",
    "unordered_set_weights",
]


class SetWeights(NamedTuple):
    """Weights of a sample set of size k.

    Attributes:
        log_weight: the logarithms of the weights :math:`w_s`, ``batch_shape + (k,)`` float64.
        baseline: the baseline matrix C, ``batch_shape + (k, k)`` float64, row s', column s; ``batch_shape + (1, k)``
            where all rows are the same.
    """

    log_weight: Tensor
    baseline: Tensor


@torch.no_grad()
def unordered_set_weights(log_prob: Tensor, log_rest: Tensor) -> SetWeights:
    r"""Weigh k distinct values drawn without replacement: :math:`w_s = p_s R(S, s)`.

    The built-in baseline is :math:`b_s = \sum_{s'} p_{s'} R^{D \setminus s}(S, s') f(s')`; a single value has none.

    Args:
        log_prob: log-probabilities of the k values, ``batch_shape + (k,)``.
        log_rest: log-probability that a draw is none of the k values, ``batch_shape``; -inf if the support has no
            others.

    References:
        | Estimating Gradients for Discrete Random Variables by Sampling without Replacement (Kool et al., 2020)
        | https://arxiv.org/abs/2002.06043

    Example:
        >>> p = torch.tensor([0.5, 0.3], dtype=torch.float64)
        >>> unordered_set_weights(p.log(), (1 - p.sum()).log()).log_weight.exp()
        tensor([0.5833, 0.4167], dtype=torch.float64)
    """
    first, second = first_and_second_log_ratios(log_prob, log_rest)
    if log_prob.shape[-1] == 1:
        covered = torch.isneginf(log_rest).unsqueeze(-1).unsqueeze(-1)
        baseline = covered.to(first.dtype)
    else:
        baseline = (log_prob.unsqueeze(-2) + second).exp()
    return SetWeights(log_prob + first, baseline)


@torch.no_grad()
def enumeration_weights(log_prob: Tensor) -> SetWeights:
    """Weigh all values by their probability; the baseline is the expectation.

    Args:
        log_prob: log-probabilities of all values of the distribution, ``batch_shape + (k,)``.

    Example:
        >>> enumeration_weights(torch.tensor([0.5, 0.5]).log()).baseline
        tensor([[0.5000, 0.5000]])
    """
    return SetWeights(log_prob, log_prob.exp().unsqueeze(-2))


@torch.no_grad()
def leave_one_out_weights(num_samples: int, like: Tensor) -> SetWeights:
    """Weigh k independent draws equally; the baseline of each is the mean over the others.

    Args:
        num_samples: the number k of draws.
        like: a tensor on the device on which the weights are made.

    References:
        | Buy 4 REINFORCE Samples, Get a Baseline for Free! (Kool et al., 2019), eq. 8
        | https://openreview.net/forum?id=r1lgTGL5DE

    Example:
        >>> leave_one_out_weights(3, torch.zeros(())).baseline[0]
        tensor([0.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    k = num_samples
    ones = torch.ones(k, k, dtype=torch.float64, device=like.device)
    log_weight = -ones[0].mul(k).log()
    return SetWeights(log_weight, (ones - torch.diag(ones[0])) / max(k - 1, 1))


@torch.no_grad()
def sum_and_sample_weights(log_prob: Tensor, log_tail: Tensor, num_summed: Tensor) -> SetWeights:
    r"""Weigh the most probable values by their probability, the remaining draws by an equal share of the rest.

    Let C be the summed values, r the rest mass and m the number of draws :math:`v_j`, so :math:`w_j = r / m`. The
    baseline is the estimate itself for summed values, the estimate without its own draw for the others; with one
    draw only, it is the mean over C. It costs no evaluation beyond those of the estimate.

    Args:
        log_prob: log-probabilities of the N most probable values, in falling order, ``batch_shape + (N,)``.
        log_tail: log-probability of what lies outside the j most probable values, j = 0..N,
            ``batch_shape + (N + 1,)``.
        num_summed: how many values are summed, ``batch_shape`` int64, 0..N; the other N - num_summed positions are
            draws from the rest.

    References:
        | Rao-Blackwellized Stochastic Gradients for Discrete Distributions (Liu et al., 2019), eq. 6
        | https://arxiv.org/abs/1810.04777

    Example:
        >>> p = torch.tensor([0.5, 0.3], dtype=torch.float64)
        >>> tail = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
        >>> sum_and_sample_weights(p.log(), tail.log(), torch.tensor(1)).log_weight.exp()
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    n = log_prob.shape[-1]
    summed = torch.arange(n, device=log_prob.device) < num_summed.unsqueeze(-1)
    draws = (n - num_summed).unsqueeze(-1)
    rest = log_tail.gather(-1, num_summed.unsqueeze(-1))
    log_weight = torch.where(summed, log_prob, rest - draws.clamp(min=1).to(log_prob.dtype).log())
    return SetWeights(log_weight, _sum_and_sample_baseline(log_weight.exp(), summed, draws.unsqueeze(-1)))


def _sum_and_sample_baseline(weight: Tensor, summed: Tensor, m: Tensor) -> Tensor:
    row, column = summed.unsqueeze(-1), summed.unsqueeze(-2)
    w = weight.unsqueeze(-2).expand(row.shape[:-1] + weight.shape[-1:])
    off_diagonal = ~torch.eye(weight.shape[-1], dtype=torch.bool, device=weight.device)
    sampled_pair = ~row & ~column
    many = torch.where(sampled_pair, off_diagonal * w * m / (m - 1).clamp(min=1), w)
    mass = (weight * summed).sum(-1, keepdim=True).unsqueeze(-1)
    single = torch.where(row & (mass > 0), w / mass, torch.zeros_like(w))
    return torch.where(m == 1, single, many)
