"""Sets of configurations of a product distribution: drawn without replacement, the most probable, and the rest.

A product distribution has N independent coordinates with C categories each; ``log_probs`` has shape
``batch_shape + (N, C)`` and a configuration is an int64 tensor ``(N,)``. The joint domain holds C^N configurations and
is never built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops._log_space import floored, is_nothing, unfloored
from pyro_ext.ops.kernels import use_kernels
from pyro_ext.ops.sets.gumbel import exponential_like, perturb

__all__ = [
    "ProductSet",
    "product_gumbel_topk",
    "product_log_rest",
    "product_remainder",
    "product_topk",
    "sample_product_remainder",
    "sample_remainder",
]

_CHUNK = 1 << 22  # Gumbel draws held at a time


class ProductSet(NamedTuple):
    """Distinct configurations of a product distribution.

    Attributes:
        index: the categories, ``batch_shape + (k, N)`` int64.
        log_prob: the joint log-probabilities, ``batch_shape + (k,)`` float64.
    """

    index: Tensor  # type: ignore[assignment]
    log_prob: Tensor


@torch.no_grad()
def product_gumbel_topk(log_probs: Tensor, k: int) -> ProductSet:
    r"""Draw k distinct configurations of a product distribution without replacement, in draw order.

    This is stochastic beam search with one level per coordinate. The coordinates are independent, so the Gumbel
    noise of all children is drawn and ranked at once; conditioning it on a parent's value is monotone and keeps the
    ranking, hence only a ``(k, k)`` merge is left to each level.

    Args:
        log_probs: normalised log-probabilities, ``batch_shape + (N, C)``.
        k: the number of configurations to draw; at most C^N are returned.

    Returns:
        The configurations and their log-probabilities; those of probability zero come last.

    References:
        | Stochastic Beams and Where to Find Them (Kool et al., 2019), Section 4.1
        | https://arxiv.org/abs/1903.06059

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]).log()
        >>> drawn = product_gumbel_topk(log_probs, 8)
        >>> drawn.index.shape, drawn.log_prob.exp().sum().item()
        (torch.Size([8, 3]), 1.0)
    """
    log_probs = floored(log_probs.double())
    if use_kernels(log_probs) and _has_times(log_probs, k):
        return _earliest(log_probs, k)
    first = log_probs[..., 0, :]
    g, kept = perturb(first).topk(min(k, first.shape[-1]), dim=-1)
    score = first.gather(-1, kept)
    levels = [kept]
    blocks = []
    for block in _ranked_children(log_probs, k):
        for gap, log_prob in zip(block.gap, block.log_prob, strict=True):
            m = g.shape[-1]
            shift = (g - score).unsqueeze(-1) + gap[..., :m, :]
            rank = (g.unsqueeze(-1) - torch.logaddexp(shift, block.zero)).flatten(-2)
            g, kept = rank.topk(min(k, rank.shape[-1]), dim=-1)
            score = (score.unsqueeze(-1) + log_prob[..., :m, :]).flatten(-2).gather(-1, kept)
            levels.append(kept)
        blocks.append(block.category)
    return ProductSet(_backtrace(levels, blocks), unfloored(score))


def _has_times(log_probs: Tensor, k: int) -> bool:
    """Return whether the inverse probabilities of k configurations surely fit into float64.

    Of the k most probable ones, none has more than log2 k coordinates that are not at their most probable category.
    """
    least = log_probs.masked_fill(is_nothing(log_probs), 0.0).amin() if log_probs.numel() else -math.inf
    return float(least) > -600 / (2 + math.log2(k))


def _earliest(log_probs: Tensor, k: int) -> ProductSet:
    """Draw the same set by a compiled kernel, from the same noise."""
    from pyro_ext.ops.sets._product_kernels import earliest_configurations  # Numba is imported at the first call

    batch, size = log_probs.shape[:-2], math.prod(log_probs.shape[:-2])
    table = log_probs.reshape(size, *log_probs.shape[-2:])
    inverse = (-table).exp()
    first = exponential_like(log_probs[..., 0, :]).reshape(table[:, 0].shape)
    kept = (first * inverse[:, 0]).topk(min(k, first.shape[-1]), dim=-1, largest=False).indices
    blocks = (exponential_like(block).reshape(len(block), size, *block.shape[-2:]) for block in _children(log_probs, k))
    index, score = earliest_configurations(table, inverse, kept, chain([first], blocks), k)
    return ProductSet(index.view(*batch, *index.shape[1:]), unfloored(score.view(*batch, score.shape[-1])))


class _Children(NamedTuple):
    """The perturbed children of every possible beam, best first: ``(levels,) + batch_shape + (k, min(k, C))`` each."""

    gap: Tensor  # log(1 - exp(g - max g)) - g, the part of the conditioned Gumbel that no parent changes
    log_prob: Tensor
    category: Tensor
    zero: Tensor


def _ranked_children(log_probs: Tensor, k: int) -> Iterator[_Children]:
    """Yield the children a block of levels at a time."""
    for block in _children(log_probs, k):
        ranked, category = perturb(block).topk(min(k, log_probs.shape[-1]), dim=-1)
        gap = torch.log1p((ranked - ranked[..., :1]).exp_().neg_()).sub_(ranked)
        yield _Children(gap, block.gather(-1, category), category, gap.new_zeros(()))


def _children(log_probs: Tensor, k: int) -> Iterator[Tensor]:
    """Yield the log-probabilities of the children, ``(levels,) + batch_shape + (k, C)``, a block of levels at a time.

    So the noise in memory stays bounded.
    """
    *batch, n, c = log_probs.shape
    per_level = max(1, log_probs[..., 0, :].numel() * k)
    step = max(1, _CHUNK // per_level)
    for start in range(1, n, step):
        yield log_probs[..., start : start + step, :].movedim(-2, 0).unsqueeze(-2).expand(-1, *batch, k, c)


def _backtrace(levels: list[Tensor], categories: list[Tensor]) -> Tensor:
    """Follow the kept children back from the last level; return the configurations ``batch_shape + (k, N)``.

    Args:
        levels: for each level, the positions of the kept children among all children, parent by parent.
        categories: the categories of the children from the second level on, ``(levels,) + batch_shape + (k, width)``.
    """
    if not categories:
        return levels[0].unsqueeze(-1)
    table = torch.cat(categories) if len(categories) > 1 else categories[0]
    width = table.shape[-1]
    path = _path(levels, width)
    chosen = table.flatten(-2).gather(-1, path[1:])
    return torch.cat([path[:1], chosen]).movedim(0, -1)


def _path(levels: list[Tensor], width: int) -> Tensor:
    """Return the positions of the kept children and of their ancestors, ``(levels,) + batch_shape + (k,)``."""
    position = levels[-1]
    path = [position]
    for level in reversed(levels[:-1]):
        position = level.gather(-1, torch.div(position, width, rounding_mode="floor"))
        path.append(position)
    return torch.stack(path[::-1])


@torch.no_grad()
def product_topk(log_probs: Tensor, k: int) -> ProductSet:
    """Return the k most probable configurations of a product distribution, most probable first.

    Ties are broken by position (a stable sort), so that every device returns the same set.

    Args:
        log_probs: log-probabilities, ``batch_shape + (N, C)``.
        k: the number of configurations to return; at most C^N are returned.

    Returns:
        The configurations and their log-probabilities.

    Example:
        >>> product_topk(torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log(), 3).index.tolist()
        [[0, 0], [1, 0], [0, 1]]
    """
    log_probs = log_probs.double()
    ranked, choice = log_probs.sort(dim=-1, descending=True, stable=True)
    ranked, choice = ranked[..., :k], choice[..., :k]
    width = ranked.shape[-1]
    best = ranked[..., 0, :]
    levels = [torch.arange(width, device=best.device).expand(best.shape)]
    for coordinate in ranked.unbind(-2)[1:]:
        score = (best.unsqueeze(-1) + coordinate.unsqueeze(-2)).flatten(-2)
        score, kept = score.sort(dim=-1, descending=True, stable=True)
        best = score[..., :k]
        levels.append(kept[..., :k])
    path = _path(levels, width)
    path[1:] %= width  # the rank of the coordinate's category
    return ProductSet(choice.movedim(-2, 0).gather(-1, path).movedim(0, -1), best)


@torch.no_grad()
def product_remainder(log_probs: Tensor, index: Tensor) -> Tensor:
    """Return the log-mass of every branch of the prefix tree that holds no member of a set of configurations.

    The configurations outside the set are a disjoint union of branches: follow member i for t coordinates, then take
    a category c that no member with the same prefix takes; the coordinates after that are free. The sum over branches
    is the mass outside the set, without ever forming one minus the mass of the set.

    Args:
        log_probs: normalised log-probabilities, ``batch_shape + (N, C)``.
        index: the set, k distinct configurations, int64 ``batch_shape + (k, N)``.

    Returns:
        Log-masses ``batch_shape + (k, N, C)`` float64, -inf where there is no such branch (or it is counted at a
        smaller i).

    Example:
        >>> log_probs = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()
        >>> product_remainder(log_probs, torch.tensor([[0, 0]])).exp().sum().item()  # 1 - 0.6 * 0.9
        0.46000...
    """
    log_probs = log_probs.double()
    k, c = index.shape[-2], log_probs.shape[-1]
    same = (index.unsqueeze(-2) == index.unsqueeze(-3)).movedim(-1, -3)  # (N, k, k)
    shared = torch.ones_like(same)
    shared[..., 1:, :, :] = same[..., :-1, :, :].cumprod(dim=-3, dtype=torch.uint8).bool()  # same prefix before t
    category = index.movedim(-1, -2).unsqueeze(-2).expand(shared.shape)
    taken = shared.new_zeros((*shared.shape[:-1], c), dtype=torch.uint8)
    taken = taken.scatter_add_(-1, category, shared.to(torch.uint8)).bool()  # (N, k, C)
    repeat = (shared & torch.ones(k, k, dtype=torch.bool, device=index.device).tril(-1)).any(-1)  # (N, k)
    chosen = log_probs.gather(-1, index.movedim(-1, -2))  # (N, k)
    prefix = torch.cat([torch.zeros_like(chosen[..., :1, :]), chosen[..., :-1, :].cumsum(dim=-2)], dim=-2)
    mass = prefix.unsqueeze(-1) + log_probs.unsqueeze(-2)
    return mass.masked_fill(taken | repeat.unsqueeze(-1), -torch.inf).movedim(-3, -2)


@torch.no_grad()
def product_log_rest(log_probs: Tensor, index: Tensor) -> Tensor:
    """Return the log of the mass outside a set of configurations: the sum of :func:`product_remainder`.

    Args:
        log_probs: normalised log-probabilities, ``batch_shape + (N, C)``.
        index: the set, k distinct configurations, int64 ``batch_shape + (k, N)``.

    Returns:
        Log-masses ``batch_shape`` float64, -inf where nothing positive is left.

    Example:
        >>> log_probs = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()
        >>> product_log_rest(log_probs, torch.tensor([[0, 0]])).exp().item()  # 1 - 0.6 * 0.9
        0.46000...
    """
    if not use_kernels(log_probs, index):
        return product_remainder(log_probs, index).flatten(-3).logsumexp(-1)
    from pyro_ext.ops.sets._product_kernels import log_mass_outside

    size = math.prod(index.shape[:-2])
    flat = (x.detach().reshape(size, *x.shape[-2:]) for x in (log_probs.double(), index))
    return log_mass_outside(*flat).view(index.shape[:-2])


@torch.no_grad()
def sample_product_remainder(
    log_probs: Tensor, members: ProductSet, log_branches: Tensor, num_excluded: Tensor, num_draws: int
) -> Tensor:
    """Draw configurations independently from a product distribution outside the first members of a set.

    Args:
        log_probs: normalised log-probabilities, ``batch_shape + (N, C)``.
        members: the set, k distinct configurations.
        log_branches: the result of :func:`product_remainder` for this set, ``batch_shape + (k, N, C)``.
        num_excluded: how many of the members, counted from the first, cannot be drawn; int64 ``batch_shape``.
        num_draws: the number m of configurations to draw.

    Returns:
        Configurations ``batch_shape + (m, N)``; arbitrary where nothing is left to draw.
    """
    log_probs = log_probs.double()
    *batch, k, n = members.index.shape
    position = torch.arange(k, device=members.index.device)
    allowed = members.log_prob.masked_fill(position < num_excluded.unsqueeze(-1), -torch.inf)
    leaf = _inverse_cdf(torch.cat([allowed, log_branches.flatten(-3)], dim=-1), num_draws)  # batch + (m,)

    branch = (leaf - k).clamp(min=0)
    c = log_probs.shape[-1]
    is_member = leaf < k
    member = torch.where(is_member, leaf, torch.div(branch, n * c, rounding_mode="floor"))
    level = torch.where(is_member, torch.full_like(leaf, n), torch.div(branch, c, rounding_mode="floor") % n)
    followed = members.index.gather(-2, member.unsqueeze(-1).expand(*batch, num_draws, n))
    free = _inverse_cdf(log_probs, num_draws).movedim(-1, -2)
    coordinate = torch.arange(n, device=leaf.device)
    level = level.unsqueeze(-1)
    result = torch.where(coordinate < level, followed, free)
    return torch.where(coordinate == level, (branch % c).unsqueeze(-1), result)


@torch.no_grad()
def sample_remainder(log_probs: Tensor, index: Tensor, num_excluded: Tensor, num_draws: int) -> Tensor:
    """Draw categories independently from a single categorical distribution outside the first members of a set.

    The same as :func:`sample_product_remainder` for N = 1, in a pass over the C categories instead of k C branches.

    Args:
        log_probs: normalised log-probabilities, ``batch_shape + (C,)``.
        index: the set, k distinct categories, int64 ``batch_shape + (k,)``.
        num_excluded: how many of the members, counted from the first, cannot be drawn; int64 ``batch_shape``.
        num_draws: the number m of categories to draw.

    Returns:
        Categories ``batch_shape + (m,)``; arbitrary where nothing is left to draw.

    Example:
        >>> log_probs = torch.tensor([0.5, 0.3, 0.2]).log()
        >>> sample_remainder(log_probs, torch.tensor([0, 1]), torch.tensor(2), 4)
        tensor([2, 2, 2, 2])
    """
    log_probs = log_probs.double()
    excluded = torch.arange(index.shape[-1], device=index.device) < num_excluded.unsqueeze(-1)
    own = log_probs.gather(-1, index).masked_fill(excluded, -torch.inf)
    return _inverse_cdf(log_probs.scatter(-1, index, own), num_draws)


def _inverse_cdf(log_mass: Tensor, num_draws: int) -> Tensor:
    """Draw indices ``batch_shape + (m,)`` in proportion to ``exp(log_mass)``, ``batch_shape + (L,)``."""
    top = log_mass.amax(-1, keepdim=True)
    cdf = (log_mass - top.nan_to_num(neginf=0.0)).exp_().cumsum(-1)  # nothing is left where it ends in 0
    total = cdf[..., -1:]
    u = torch.rand(*cdf.shape[:-1], num_draws, dtype=cdf.dtype, device=cdf.device) * total
    u = torch.minimum(u, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, u, right=True).clamp(max=log_mass.shape[-1] - 1)
