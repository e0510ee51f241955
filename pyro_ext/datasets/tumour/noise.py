"""What sequencing of single cells makes of a mutation matrix: false positives, false negatives, missing entries."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.ops.mutations import MISSING
from pyro_ext.utils.checks import number_between
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["Rate", "check_rate", "observe"]

Rate = float | Tensor
"""A probability of errors: one for all entries, or a tensor that broadcasts against matrices."""


def observe(
    matrix: Tensor,
    false_positive: Rate = 0.0,
    false_negative: Rate = 0.0,
    missing: Rate = 0.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw what is observed of mutation matrices, entry by entry.

    .. math::  P(A'_{ij} = 1 \mid A_{ij} = 0) = \alpha_{ij}, \qquad P(A'_{ij} = 0 \mid A_{ij} = 1) = \beta_{ij}

    for entries that are not missing; whether they are does not depend on their value.

    Args:
        matrix: the true matrices, entries 0 and 1, ``batch_shape + (n, m)``, of any type.
        false_positive: the probability :math:`\alpha` that a 0 is observed as 1, at least 0 and below 1; a number, or a
            tensor that broadcasts against ``matrix``: ``(m,)`` for rates of mutations, ``(n, 1)`` for those of cells.
        false_negative: the probability :math:`\beta` that a 1 is observed as 0, in the same way.
        missing: the probability that an entry is not observed at all, in the same way.
        generator: the random generator, on the device of ``matrix``; torch's default generator if None.

    Returns:
        int8, of the shape of ``matrix``: 0, 1, and 3 (:data:`~pyro_ext.ops.mutations.MISSING`) for missing entries.

    Raises:
        ValueError: if a rate lies outside [0, 1).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> observe(torch.ones(1000, 10, 10), 0.0, 0.1, generator=generator).float().mean()
        tensor(0.8997)
    """
    alpha, beta, gap = (
        check_rate(name, rate).to(matrix.device)
        for name, rate in (("false_positive", false_positive), ("false_negative", false_negative), ("missing", missing))
    )
    shape = broadcast_shapes(matrix.shape, alpha.shape, beta.shape, gap.shape)
    if shape != matrix.shape:
        raise ValueError(f"rates must broadcast against matrices {tuple(matrix.shape)}, got rates {tuple(shape)}")
    ones = matrix.bool()
    wrong = torch.rand(matrix.shape, generator=generator, device=matrix.device) < torch.where(ones, beta, alpha)
    lost = torch.rand(matrix.shape, generator=generator, device=matrix.device) < gap
    return torch.where(lost, MISSING, (ones ^ wrong).to(torch.int8)).to(torch.int8)


def check_rate(name: str, rate: Rate, ends: str = "[)") -> Tensor:
    """Return a rate of errors as a tensor.

    Args:
        name: what the argument is called.
        rate: a number, or a tensor of them.
        ends: a bracket for each end of the interval from 0 to 1: ``"[)"`` allows 0 but not 1, ``"()"`` neither.

    Raises:
        ValueError: if it is no number, or lies outside.
    """
    if not isinstance(rate, Tensor):
        return torch.tensor(number_between(name, rate, 0, 1, ends))
    inside = (rate >= 0) & (rate < 1) if ends == "[)" else (rate > 0) & (rate < 1)
    if not bool(inside.all()):
        raise ValueError(f"{name} must be a number in {ends[0]}0, 1{ends[1]}, got {rate[~inside][0].item():g}")
    return rate
