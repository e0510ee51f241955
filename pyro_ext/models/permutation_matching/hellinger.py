"""How far a law of permutations is from another one, over the list of all permutations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["frequencies", "hellinger_distance", "permutation_rank"]


def permutation_rank(matrices: Tensor) -> Tensor:
    """Return the place of permutation matrices ``(..., N, N)`` in the lexicographic order of columns, int64 ``(...)``.

    It is the order of ``enumerate_support`` of the laws of permutations.

    Example:
        >>> permutation_rank(torch.eye(3)), permutation_rank(torch.eye(3).flip(0))
        (tensor(0), tensor(5))
    """
    columns = matrices.argmax(-1)
    n = columns.shape[-1]
    later_and_smaller = (columns.unsqueeze(-1) > columns.unsqueeze(-2)).triu(1).sum(-1)
    weights = torch.tensor([math.factorial(n - 1 - row) for row in range(n)], device=columns.device)
    return (later_and_smaller * weights).sum(-1)


def frequencies(matrices: Tensor) -> Tensor:
    """Return how often each permutation occurs, relative, float64 ``batch_shape + (N!,)``.

    Args:
        matrices: permutation matrices, ``(num_samples,) + batch_shape + (N, N)``.

    Example:
        >>> frequencies(torch.eye(2).expand(4, 2, 2))
        tensor([1., 0.], dtype=torch.float64)
    """
    rank = permutation_rank(matrices).movedim(0, -1)
    one = torch.ones((), dtype=torch.float64, device=rank.device)
    counts = one.new_zeros(*rank.shape[:-1], math.factorial(matrices.shape[-1]))
    return counts.scatter_add_(-1, rank, one.expand(rank.shape)) / rank.shape[-1]


def hellinger_distance(p: Tensor, q: Tensor) -> Tensor:
    r"""Return the Hellinger distance between probability vectors ``batch_shape + (K,)``, ``batch_shape``.

    .. math::  H(p, q) = \sqrt{1 - \sum_k \sqrt{p_k q_k}} = \sqrt{\tfrac12 \sum_k (\sqrt{p_k} - \sqrt{q_k})^2}.

    Against frequencies of M samples it comes out too large, since the root is concave: :math:`H^2` by about 1 / (8 M)
    for every value that occurs, which is .1 in H where 80 values share the probability and M is 1000.

    Example:
        >>> hellinger_distance(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
        tensor(0.5412)
    """
    return (0.5 * (p.sqrt() - q.sqrt()).square().sum(-1)).sqrt()
