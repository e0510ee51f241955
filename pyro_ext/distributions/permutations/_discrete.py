"""The bases of the distributions of a permutation matrix: enumeration, moments, draws without replacement."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import permutations
from typing import Any, ClassVar

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ext.distributions import constraints
from pyro_ext.distributions.distinct import DistinctDraws, distinct_values
from pyro_ext.distributions.structure import enumerated_entropy
from pyro_ext.ops.assignment import permutation_matrix
from pyro_ext.ops.sets import stochastic_beam_search

__all__ = ["PermutationDistribution", "SequentialPermutation"]

# Listing more entries of matrices than this would be a mistake more often than a wish: N up to 9.
_MOST_ENTRIES = 1 << 25


class PermutationDistribution(TorchDistribution):
    """A distribution of a permutation matrix ``(N, N)``; its one matrix parameter is named in ``arg_constraints``."""

    support: ClassVar[Any] = constraints.permutation_matrix

    def __init__(self, size: int, batch_shape: Sequence[int], validate_args: bool | None) -> None:
        super().__init__(torch.Size(batch_shape), torch.Size([size, size]), validate_args=validate_args)

    @property
    @abstractmethod
    def _parameter(self) -> Tensor:
        """The matrix parameter, whose type and device values have."""

    @property
    def permutation_size(self) -> int:
        """N, the number of rows."""
        return int(self.event_shape[-1])

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its parameters broadcast to ``batch_shape``."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        for name in self.arg_constraints:
            parameter = getattr(self, name)
            setattr(new, name, parameter.expand(batch_shape + parameter.shape[-2:]))
        PermutationDistribution.__init__(new, self.permutation_size, batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def num_values(self) -> int:
        """The number of permutations, N!."""
        return math.factorial(self.permutation_size)

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the support is small enough to be listed, N at most 9."""
        return self.num_values * self.permutation_size**2 <= _MOST_ENTRIES

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return every permutation matrix, ``(N!,) + batch_shape + (N, N)``, batch dims being 1 unless ``expand``.

        Raises:
            NotImplementedError: if there are too many.
        """
        if not self.has_enumerate_support:
            raise NotImplementedError(f"{self!r} has {self.num_values} values, too many to list: sample from it")
        index = _all_permutations(self.permutation_size).to(self._parameter.device)
        values = permutation_matrix(index, self._parameter.dtype)
        values = values.reshape(-1, *(1,) * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, -1, -1) if expand else values

    def entropy(self) -> Tensor:
        """Return the entropy in nats, ``batch_shape``, summed over the whole support.

        Raises:
            NotImplementedError: if the support is too large to list.
        """
        return enumerated_entropy(self)

    @property
    def mean(self) -> Tensor:
        """The probability of every cell to hold the one, ``batch_shape + (N, N)``, summed over the whole support."""
        values = self.enumerate_support(expand=False)
        probs = self.log_prob(values).exp()
        return (probs[..., None, None] * values).sum(0)

    @property
    def variance(self) -> Tensor:
        """The variance of every cell, ``batch_shape + (N, N)``."""
        return self.mean * (1 - self.mean)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape: {tuple(self.batch_shape)}, N={self.permutation_size})"


class SequentialPermutation(PermutationDistribution):
    """A distribution of a permutation matrix ``(N, N)`` that chooses the column of one row after the other.

    Distinct permutations are drawn without a list of all.
    """

    @abstractmethod
    def _chooser(self) -> Callable[[Tensor], Tensor]:
        """Return a function of the columns chosen so far, ``batch_shape + (m, t)``.

        Its result are the normalised log-probabilities of the next row's column, ``batch_shape + (m, N)``.
        """

    def _rows_in_order(self, columns: Tensor) -> Tensor:
        """Bring the columns chosen, last dim N, into the order of the rows."""
        return columns

    @torch.no_grad()
    def sample_without_replacement(self, k: int) -> DistinctDraws:
        r"""Draw ``k`` distinct permutations, one after the other without replacement.

        The columns of the rows are chosen one row at a time, by a beam search with Gumbel noise: ``k N`` choices,
        however many permutations there are. The sample-set ELBOs draw their sets from here.

        Args:
            k: the number of values; all ``N!`` if there are no more.

        Returns:
            :class:`DistinctDraws`; ``values`` have shape ``(k,) + batch_shape + (N, N)``.

        Raises:
            ValueError: if ``k`` is not an integer of at least 1.

        References:
            | Stochastic beams and where to find them (Kool et al., 2019)
            | https://arxiv.org/abs/1903.06059
        """
        sequences = stochastic_beam_search(
            self._chooser(),
            self.permutation_size,
            k,
            batch_shape=self.batch_shape,
            device=self._parameter.device,
        )
        dtype = self._parameter.dtype
        return distinct_values(sequences, lambda columns: permutation_matrix(self._rows_in_order(columns), dtype))


@lru_cache(maxsize=16)
def _all_permutations(n: int) -> Tensor:
    """Return all orders of ``n`` elements in lexicographic order, int64 ``(n!, n)``."""
    flat = (i for order in permutations(range(n)) for i in order)
    with torch.inference_mode(False):
        return torch.from_numpy(np.fromiter(flat, np.int64, math.factorial(n) * n).reshape(-1, n).copy())
