"""Equal rows of a tensor of integers, such as equal trees."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.keys import clade_codes

__all__ = ["distinct_rows", "row_kinds"]


def distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return each distinct row once, and the number of every row among them, much faster than ``unique(dim=0)``.

    Rows are told apart by random 64-bit sums; if two different rows have the same sum, they are sorted instead.

    Args:
        rows: the rows to compare, int64 ``(T, N)``.

    Returns:
        The distinct rows ``(K, N)``, in an order that depends on them alone, and each row's number, int64 ``(T,)``.

    >>> distinct_rows(torch.tensor([[0, 1], [2, 3], [0, 1]]))[1].unique(return_counts=True)[1].sort().values
    tensor([1, 2])
    """
    keys = (rows * clade_codes(rows.shape[1], device=rows.device)).sum(-1)
    _, number, count = keys.unique(return_inverse=True, return_counts=True)
    first = torch.full_like(count, len(rows))
    first = first.scatter_reduce(0, number, torch.arange(len(rows), device=rows.device), "amin")
    distinct = rows[first]
    if not torch.equal(distinct[number], rows):
        return rows.unique(dim=0, return_inverse=True)
    return distinct, number


def row_kinds(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Number rows such that equal ones have equal numbers, without waiting for how many distinct ones there are.

    Args:
        rows: the rows to compare, int64 ``(T, N)``.

    Returns:
        A number of every row, int64 ``(T,)``, less than T; and whether different rows may have got equal ones, since
        their random sums are equal, bool ``()``.

    >>> row_kinds(torch.tensor([[0, 1], [0, 1]]))
    (tensor([0, 0]), tensor(False))
    """
    keys, order = (rows * clade_codes(rows.shape[1], device=rows.device)).sum(-1).sort()
    changes = torch.zeros_like(order)
    changes[1:] = keys[1:] != keys[:-1]
    together = rows.index_select(0, order)
    differs = (together[1:] != together[:-1]).any(-1)
    kind = torch.empty_like(order).scatter_(0, order, changes.cumsum(0))
    return kind, (differs & (changes[1:] == 0)).any()
