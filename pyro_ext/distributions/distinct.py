"""Distinct values drawn without replacement, by distributions that have a way of their own to do so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from pyro_ext.ops.sets import SequenceSet

__all__ = ["DistinctDraws", "SamplesWithoutReplacement", "distinct_values"]


class DistinctDraws(NamedTuple):
    """Distinct values drawn without replacement, in the order drawn.

    Where fewer than ``k`` values are possible, the positions left over repeat the first value, with
    log-probability -inf.

    Attributes:
        values: the values, ``(k,) + batch_shape + event_shape``.
        log_prob: the log-probabilities of the values, without gradient, ``(k,) + batch_shape``.
        log_rest: the log of the probability of all other values, ``batch_shape``; -inf if there are none.
    """

    values: Tensor
    log_prob: Tensor
    log_rest: Tensor


@runtime_checkable
class SamplesWithoutReplacement(Protocol):
    """A distribution that draws distinct values itself, without a list of its support.

    The sample-set ELBOs draw from any distribution that has this method, a user's own included.
    """

    def sample_without_replacement(self, k: int) -> DistinctDraws:
        """Draw ``k`` distinct values; where there are fewer, all of them, or all and then the first repeated."""


def distinct_values(sequences: SequenceSet, build: Callable[[Tensor], Tensor]) -> DistinctDraws:
    """Turn distinct sequences of choices, which a beam search has drawn, into the values that they stand for.

    Args:
        sequences: sequences drawn without replacement; those of log-probability -inf are replaced by the first.
        build: maps sequences ``(k,) + batch_shape + (T,)`` to values ``(k,) + batch_shape + event_shape``.

    Example:
        >>> import torch
        >>> from pyro_ext.ops.sets import stochastic_beam_search
        >>> bits = lambda prefix: torch.tensor([0.5, 0.5]).log().expand(*prefix.shape[:-1], 2)
        >>> sequences = stochastic_beam_search(bits, length=2, k=4)
        >>> distinct_values(sequences, lambda bits: bits @ torch.tensor([2, 1])).values.sort().values
        tensor([0, 1, 2, 3])
    """
    impossible = (sequences.log_prob == -math.inf).unsqueeze(-1)
    actions = sequences.actions.where(~impossible, sequences.actions[..., :1, :])
    return DistinctDraws(build(actions.movedim(-2, 0)), sequences.log_prob.movedim(-1, 0), sequences.log_rest)
