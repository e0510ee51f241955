"""Constraints on values: what the supports of this package's distributions are.

Each ``check`` returns ``batch_shape``, allocates nothing on another device, and has no state.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_ext.phylo.canonical import is_canonical

__all__ = [
    "doubly_stochastic",
    "doubly_stochastic_to",
    "k_hot",
    "log_simplex",
    "ordered_subset",
    "permutation_matrix",
    "relaxed_subset",
    "tree_topology",
    "unordered_subset",
]

_TOLERANCE = 1e-5  # of sums of weights; float32 keeps it for ten thousand of them


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


def _is_square(value: Tensor) -> bool:
    return value.dim() >= 2 and value.shape[-1] == value.shape[-2] >= 1


class _DoublyStochastic(Constraint):
    """Square matrices of nonnegative entries whose rows and columns each sum to 1.

    Args:
        tolerance: how far a sum may be from 1; ten roundings an entry if None.

    >>> doubly_stochastic.check(torch.tensor([[[0.3, 0.7], [0.7, 0.3]], [[0.3, 0.7], [0.6, 0.4]]]))
    tensor([ True, False])
    """

    event_dim = 2

    def __init__(self, tolerance: float | None = None) -> None:
        self.tolerance = tolerance
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return whether each event is valid, ``batch_shape``; none is unless it is square."""
        if not _is_square(value):
            return value.new_zeros(value.shape[:-2], dtype=torch.bool)
        rounding = 10 * torch.finfo(value.dtype).eps * value.shape[-1]
        tolerance = max(rounding, self.tolerance or 0)
        sums = torch.stack([value.sum(-1), value.sum(-2)], -1)
        return (value >= 0).all(-1).all(-1) & ((sums - 1).abs() <= tolerance).all(-1).all(-1)

    def __repr__(self) -> str:
        return "DoublyStochastic()" if self.tolerance is None else f"DoublyStochastic(tolerance={self.tolerance})"


class _PermutationMatrix(Constraint):
    """Square matrices of zeros and ones with a single one in every row and column.

    >>> permutation_matrix.check(torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]]))
    tensor([ True, False])
    """

    is_discrete = True
    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        """Return whether each event is valid, ``batch_shape``; none is unless it is square."""
        if not _is_square(value):
            return value.new_zeros(value.shape[:-2], dtype=torch.bool)
        binary = ((value == 0) | (value == 1)).all(-1).all(-1)
        return binary & (value.sum(-1) == 1).all(-1) & (value.sum(-2) == 1).all(-1)

    def __repr__(self) -> str:
        return "PermutationMatrix()"


class _LogSimplex(Constraint):
    """Logarithms of weights that sum to 1, -inf for a weight of zero.

    >>> log_simplex.check(torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))
    tensor([ True, False])
    """

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Return whether each event is valid, ``batch_shape``."""
        return value.logsumexp(-1).abs() < _TOLERANCE

    def __repr__(self) -> str:
        return "LogSimplex()"


class _RelaxedSubset(Constraint):
    """Non-negative weights that sum to ``k``.

    >>> relaxed_subset(2).check(torch.tensor([[0.9, 0.8, 0.3], [0.9, 0.8, 0.0]]))
    tensor([ True, False])
    """

    event_dim = 1

    def __init__(self, k: int) -> None:
        self.k = k
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return whether each event is valid, ``batch_shape``."""
        return (value >= 0).all(-1) & ((value.sum(-1) - self.k).abs() < _TOLERANCE * self.k)

    def __repr__(self) -> str:
        return f"{type(self).__name__.removeprefix('_')}(k={self.k})"


class _KHot(_RelaxedSubset):
    """``k`` ones, otherwise zeros.

    >>> k_hot(2).check(torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.5, 0.5]]))
    tensor([ True, False])
    """

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Return whether each event is valid, ``batch_shape``."""
        return ((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == self.k)


class _TreeTopology(Constraint):
    """Binary trees as canonical parent vectors: ``(2n - 2,)`` for an unrooted one, ``(2n - 1,)`` for a rooted one.

    >>> tree_topology.check(torch.tensor([[-1, 4, 4, 5, 0, 4], [-1, 5, 5, 4, 0, 4]]))
    tensor([False,  True])
    """

    is_discrete = True
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Return whether each event is valid, ``batch_shape``."""
        if value.shape[-1] < 3:
            return value.new_zeros(value.shape[:-1], dtype=torch.bool)
        return is_canonical(value, rooted=value.shape[-1] % 2 == 1)

    def __repr__(self) -> str:
        return "TreeTopology()"


doubly_stochastic = _DoublyStochastic()
doubly_stochastic_to = _DoublyStochastic
k_hot = _KHot
log_simplex = _LogSimplex()
ordered_subset = _OrderedSubset
permutation_matrix = _PermutationMatrix()
relaxed_subset = _RelaxedSubset
tree_topology = _TreeTopology()
unordered_subset = _UnorderedSubset
