"""The dynamic program over subsets behind set probabilities, in log space and without a subtraction."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.ops.sets._lattice import lattice, pair_places
from pyro_ext.ops.sets._log_space import is_nothing


def log_suffix_probs(log_p: Tensor, log_rest: Tensor, depth: int) -> list[Tensor]:
    r"""Return the log-probability that the draws after ``A`` are exactly the other members of the set.

    With ``r`` the mass outside the set and ``P`` the mass of a set,

    .. math::  g(S) = 1, \qquad g(A) = \sum_{s \in S \setminus A} p_s g(A \cup \{s\}) / (P(S \setminus A) + r).

    Members of probability zero are passed over: ``g(A) = 1`` once nothing positive is left outside ``A``.

    Args:
        log_p: log-masses of the members, floored, ``(k, B)``.
        log_rest: log of the mass outside, floored, ``(B,)``.
        depth: the largest size of ``A`` wanted.

    Returns:
        A list over sizes ``0..min(depth, k)`` of tensors ``(number of subsets of that size, B)``.

    References:
        | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020),
        | appendix B, https://arxiv.org/abs/2002.06043; here summed over the subsets instead of all orders
    """
    k, batch = log_p.shape
    remaining = _log_subset_masses(log_p, log_rest)
    suffix = log_p.new_zeros(1, batch)
    found = [suffix]
    for level in reversed(lattice(k, log_p.device)):
        terms = log_p.index_select(0, level.member) + suffix.index_select(0, level.grown)
        total = terms.view(*level.shape, batch).logsumexp(1)
        suffix = total - remaining.index_select(0, level.complement)
        suffix = suffix.masked_fill(is_nothing(total), 0)
        found.append(suffix)
    return found[::-1][: depth + 1]


def _log_subset_masses(log_p: Tensor, log_rest: Tensor) -> Tensor:
    """Return the log of ``r + P(T)`` for every subset ``T`` as a bit mask, ``(2 ** k, B)``."""
    masses = log_rest.unsqueeze(0)
    for member in log_p:
        masses = torch.cat([masses, torch.logaddexp(masses, member)])
    return masses


def log_ratios(log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return first order ``(B, k)`` and second order ``(B, k, k)`` log-ratios of floored ``log_p (B, k)``."""
    k = log_p.shape[-1]
    g = log_suffix_probs(log_p.t().contiguous(), log_rest, depth=2)
    first = (g[1] - g[0]).t()
    if k == 1:
        return first, torch.zeros_like(first).unsqueeze(-1)
    second = g[2].index_select(0, pair_places(k, log_p.device).flatten()).view(k, k, -1) - g[1].unsqueeze(1)
    second.diagonal().zero_()
    return first, second.permute(2, 0, 1)


def log_set_prob(log_p: Tensor, log_rest: Tensor) -> Tensor:
    """Return the log-probability ``(B,)`` of the sets with floored members ``log_p (B, k)``."""
    return log_suffix_probs(log_p.t(), log_rest, depth=0)[0].squeeze(0)
