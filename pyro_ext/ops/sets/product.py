"""Sets of configurations of a product distribution: drawn without replacement, and the most probable.

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

__all__ = ["ProductSet", "product_gumbel_topk", "product_topk"]

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
    return ProductSet(index.view(*batch, *index.shape[1:]), unfloored(score).view(*batch, *score.shape[1:]))


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
    if use_kernels(log_probs):
        from pyro_ext.ops.sets._product_kernels import most_probable  # Numba is imported at the first call

        table = log_probs.reshape(math.prod(log_probs.shape[:-2]), *log_probs.shape[-2:])
        index, score = most_probable(table, k)
        return ProductSet(*(x.view(*log_probs.shape[:-2], *x.shape[1:]) for x in (index, score)))
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
