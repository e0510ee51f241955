"""Constraints on values: what the supports of this package's distributions are.

Each ``check`` returns ``batch_shape``, allocates nothing on another device, and has no state.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

__all__ = ["ordered_subset", "unordered_subset"]


class _Subset(Constraint):
    """Distinct categories along the last dim; the base of both kinds of subset."""

    is_discrete = True
    event_dim = 1

    def __init__(self, k: int, num_categories: int | None = None) -> None:
        self.k = k
        self.num_categories = num_categories
        super().__init__()

    def _in_range(self, value: Tensor) -> Tensor:
        """Return whether each event holds ``k`` category numbers, ``batch_shape``."""
        if value.shape[-1] != self.k:
            return value.new_zeros(value.shape[:-1], dtype=torch.bool)
        ok = (value >= 0) & (value % 1 == 0)
        if self.num_categories is not None:
            ok = ok & (value < self.num_categories)
        return ok.all(-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__.removeprefix('_')}(k={self.k}, num_categories={self.num_categories})"


class _OrderedSubset(_Subset):
    """``k`` distinct categories in any order, the order being part of the value.

    Args:
        k: the number of categories in a value, which has event shape ``(k,)``.
        num_categories: their numbers lie below this; unbounded if None.

    >>> ordered_subset(3).check(torch.tensor([[2, 0, 1], [2, 0, 2]]))
    tensor([ True, False])
    """

    def check(self, value: Tensor) -> Tensor:
        """Return whether each event is valid, ``batch_shape``."""
        return self._in_range(value) & (value.sort(-1).values.diff(dim=-1) > 0).all(-1)


class _UnorderedSubset(_Subset):
    """``k`` distinct categories written in increasing order, so that equal sets are equal tensors.

    Args:
        k: the size of the set, which has event shape ``(k,)``.
        num_categories: the categories' numbers lie below this; unbounded if None.

    >>> unordered_subset(3).check(torch.tensor([[0, 1, 2], [2, 0, 1]]))
    tensor([ True, False])
    """

    def check(self, value: Tensor) -> Tensor:
        """Return whether each event is valid, ``batch_shape``."""
        return self._in_range(value) & (value.diff(dim=-1) > 0).all(-1)


ordered_subset = _OrderedSubset
unordered_subset = _UnorderedSubset
