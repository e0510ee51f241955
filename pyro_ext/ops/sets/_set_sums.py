"""Two ways to sum over all orders of a set: a dynamic program over its subsets, and a one-dimensional integral.

Each way comes as a :class:`Method` with the same two functions; the program is the faster one for small sets. Both take
floored log-masses of the members, ``(B, k)``, and of all categories outside the set, ``(B,)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops._log_space import is_nothing
from pyro_ext.ops.kernels import are_at_hand

__all__ = ["INTEGRAL", "SUBSETS", "Method"]


class Method(NamedTuple):
    """A way to compute probabilities of sets.

    Attributes:
        log_set_prob: returns the log-probability of each set, ``(B,)``.
        log_ratios: returns the leave-one-out log-ratios of first order, ``(B, k)``, and of second order,
            ``(B, k, k)``.
    """

    log_set_prob: Callable[[Tensor, Tensor], Tensor]
    log_ratios: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _program_log_set_prob(log_p: Tensor, log_rest: Tensor) -> Tensor:
    return _log_suffix_probs(log_p.t(), log_rest, depth=0)[0].squeeze(0)


def _program_log_ratios(log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    k = log_p.shape[-1]
    g = _log_suffix_probs(log_p.t().contiguous(), log_rest, depth=2)
    first = (g[1] - g[0]).t()
    if k == 1:
        return first, torch.zeros_like(first).unsqueeze(-1)
    second = g[2].index_select(0, _pair_places(k, log_p.device).flatten()).view(k, k, -1) - g[1].unsqueeze(1)
    second.diagonal().zero_()
    return first, second.permute(2, 0, 1)


SUBSETS = Method(_program_log_set_prob, _program_log_ratios)
"""The dynamic program over subsets, in log space and without a subtraction; its cost is ``k 2^k``."""


def _log_suffix_probs(log_p: Tensor, log_rest: Tensor, depth: int) -> list[Tensor]:
    r"""Return the log-probability that the draws after those in ``A`` are exactly the other members of the set.

    With ``r`` the mass outside the set and ``P`` the mass of a set,

    .. math::  g(S) = 1, \qquad g(A) = \sum_{s \in S \setminus A} p_s g(A \cup \{s\}) / (P(S \setminus A) + r).

    Members of probability zero do not count: ``g(A) = 1`` once nothing positive is left outside ``A``.

    Args:
        log_p: floored log-masses of the members, ``(k, B)``.
        log_rest: floored log of the mass outside the set, ``(B,)``.
        depth: the largest size of ``A`` for which results are returned.

    Returns:
        A list over sizes ``0..min(depth, k)`` of tensors ``(number of subsets of that size, B)``.

    References:
        | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020),
        | appendix B, https://arxiv.org/abs/2002.06043; here summed over the subsets instead of all orders
    """
    k, batch = log_p.shape
    remaining = _log_subset_masses(log_p, log_rest)
    suffix = log_p.new_zeros(1, batch)
    levels = [suffix]
    for level in reversed(_lattice(k, log_p.device)):
        terms = log_p.index_select(0, level.member) + suffix.index_select(0, level.grown)
        total = terms.view(*level.shape, batch).logsumexp(1)
        suffix = total - remaining.index_select(0, level.complement)
        suffix = suffix.masked_fill(is_nothing(total), 0)
        levels.append(suffix)
    return levels[::-1][: depth + 1]


def _log_subset_masses(log_p: Tensor, log_rest: Tensor) -> Tensor:
    """Return the log of ``r + P(T)`` for every subset ``T`` as a bit mask, ``(2 ** k, B)``."""
    masses = log_rest.unsqueeze(0)
    for member in log_p:
        masses = torch.cat([masses, torch.logaddexp(masses, member)])
    return masses


class _Level(NamedTuple):
    """The subsets ``A`` of one size, in lexicographic order, and how each grows by one element.

    Attributes:
        member: the elements outside each subset, int64, ``n * (k - size)`` flattened row by row.
        grown: the position of ``A`` with that element in the next level, laid out like ``member``.
        complement: each subset's complement as a bit mask, ``(n,)``.
        shape: the number n of subsets, and the number ``k - size`` of elements outside each.
    """

    member: Tensor
    grown: Tensor
    complement: Tensor
    shape: tuple[int, int]


@lru_cache(maxsize=256)
def _lattice(k: int, device: torch.device) -> tuple[_Level, ...]:
    """Return the levels of sizes ``0..k-1`` for ``k`` elements, on ``device``."""
    subsets = [list(combinations(range(k), size)) for size in range(k + 1)]
    with torch.inference_mode(False):  # these outlive the caller's mode
        return tuple(_level(k, subsets[size], subsets[size + 1], device) for size in range(k))


def _level(k: int, here: list[tuple[int, ...]], above: list[tuple[int, ...]], device: torch.device) -> _Level:
    place = {subset: i for i, subset in enumerate(above)}
    outside = [[s for s in range(k) if s not in subset] for subset in here]
    grown = [[place[tuple(sorted((*a, s)))] for s in rest] for a, rest in zip(here, outside, strict=True)]
    masks = [sum(1 << s for s in rest) for rest in outside]

    def tensor(rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=device).flatten()

    return _Level(tensor(outside), tensor(grown), tensor([masks]), (len(here), k - len(here[0])))


@lru_cache(maxsize=256)
def _pair_places(k: int, device: torch.device) -> Tensor:
    """Return the position of ``{s, t}`` among the pairs, ``(k, k)``; the diagonal holds 0 and is to be masked."""
    place = {pair: i for i, pair in enumerate(combinations(range(k), 2))}
    rows = [[place.get((min(s, t), max(s, t)), 0) for t in range(k)] for s in range(k)]
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.int64, device=device)


def _integral_log_set_prob(log_p: Tensor, log_rest: Tensor) -> Tensor:
    integrand, _, step = _log_integrand(log_p, log_rest)
    return integrand.logsumexp(-1) + math.log(step)


def _integral_log_ratios(log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the integrand by a member's factor to leave that member out.

    With ``a_0 = exp(integrand / 2)`` and ``a_i = a_0 / factor_i`` every integral needed is an entry of one Gram matrix;
    all its columns peak together, so nothing underflows.
    """
    integrand, factors, _ = _log_integrand(log_p, log_rest)
    half = 0.5 * integrand.unsqueeze(-1)
    columns = torch.cat([half, half - factors], -1)
    scale = columns.amax(-2, keepdim=True)
    columns = (columns - scale).exp()
    scale = scale.squeeze(-2)
    log_gram = (columns.mT @ columns).log() + scale.unsqueeze(-1) + scale.unsqueeze(-2)
    second = log_gram[:, 1:, 1:] - log_gram[:, 0, 1:].unsqueeze(-1)
    second.diagonal(dim1=-2, dim2=-1).zero_()
    return log_gram[:, 0, 1:] - log_gram[:, :1, 0], second


INTEGRAL = Method(_integral_log_set_prob, _integral_log_ratios)
"""The integral over the time at which all members have arrived, on a fixed grid of a few hundred points."""

# Left of its peak the integrand grows at least like exp(u), so what lies below -40 is exp(-40) of the whole.
_LOWEST = -40.0
_STEP = 0.125
_NEGLIGIBLE = 45.0  # exp of minus this is far below double precision
# Where x is smaller, log(1 - exp(-exp(x))) is x - exp(x) / 2 to double precision; where it is larger, 0.
_SMALL, _SATURATED = -16.0, 5.0


def _log_integrand(log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor, float]:
    r"""Return the log-integrand ``(B, M)``, the members' log-factors in it ``(B, M, k)`` and the spacing.

    Let member ``i`` arrive after an exponential time of rate :math:`p_i` and anything outside at rate ``r``. The
    set is drawn if all its members come first; with :math:`u = \log(r t)`,

    .. math::  p(S) = \int \exp(u - e^u) \prod_{i \in S} \bigl(1 - \exp(-e^{u + \log p_i - \log r})\bigr) du,

    analytic and decaying on both sides, so that the plain trapezoid rule converges exponentially.
    """
    u, step = _grid(log_p.shape[-1], log_p)
    if are_at_hand(log_p, log_rest):
        with torch.no_grad():
            u = _where_it_counts(u, step, log_p, log_rest)
    return *_at(u, log_p, log_rest), step


def _at(u: Tensor, log_p: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    x = u[:, None] + (log_p - log_rest.unsqueeze(-1)).unsqueeze(-2)
    # members of probability zero do not count, as in the program over subsets
    factors = _log_arrived(x).masked_fill(is_nothing(log_p).unsqueeze(-2), 0)
    return u - u.exp() + factors.sum(-1), factors


def _where_it_counts(u: Tensor, step: float, log_p: Tensor, log_rest: Tensor) -> Tensor:
    """Return the points between which all integrals lie, those without one or two of the members included.

    All integrands are log-concave, and none without a member is below the one with all: where some are above a
    threshold is one interval, whose ends a few points tell.
    """
    apart = max(1, round(1 / step))
    integrand, factors = _at(u[::apart], log_p, log_rest)
    least = factors.topk(min(2, factors.shape[-1]), -1, largest=False).values.sum(-1)
    counts = (integrand - least > integrand.amax(-1, keepdim=True) - _NEGLIGIBLE).any(0).nonzero()
    if not len(counts):
        return u
    return u[max(0, (int(counts[0]) - 1) * apart) : (int(counts[-1]) + 1) * apart + 1]


def _grid(k: int, like: Tensor) -> tuple[Tensor, float]:
    """Return the points ``u`` and their spacing; the peak is at worst a Gamma(k + 1), ``1 / sqrt(k)`` wide."""
    step = _STEP * min(1.0, math.sqrt(32 / k))
    count = math.ceil((math.log(80 + 4 * k) - _LOWEST) / step)
    return torch.arange(count, dtype=like.dtype, device=like.device) * step + _LOWEST, step


def _log_arrived(x: Tensor) -> Tensor:
    """Return ``log(1 - exp(-exp(x)))``, accurate and with finite gradients for every ``x``."""
    body = x.clamp(_SMALL, _SATURATED).exp().neg().expm1().neg().log()
    tail = x.clamp(max=_SMALL)
    return torch.where(x < _SMALL, tail - 0.5 * tail.exp(), body)
