"""Laws of a permutation that choose the column of one row after the other: distinct values without a list of all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_ext.distributions.distinct import DistinctDraws, distinct_values
from pyro_ext.distributions.permutations._discrete import PermutationDistribution
from pyro_ext.ops.assignment import permutation_matrix
from pyro_ext.ops.sets import stochastic_beam_search

__all__ = ["SequentialPermutation"]


class SequentialPermutation(PermutationDistribution):
    """A law of a permutation matrix ``(N, N)`` whose rows have tractable conditional laws."""

    @abstractmethod
    def _chooser(self) -> Callable[[Tensor], Tensor]:
        """Return what maps the columns of the rows so far, ``batch_shape + (m, t)``, to the law of the next row's.

        Its result has shape ``batch_shape + (m, N)``, normalised log-probabilities.
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
