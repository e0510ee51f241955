"""Distinct values drawn without replacement, from laws made of a sequence of choices."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from pyro_ext.ops.sets.beam import SequenceSet

__all__ = ["DistinctDraws", "SamplesWithoutReplacement", "possible_first"]


class DistinctDraws(NamedTuple):
    """Distinct values drawn without replacement, in the order drawn.

    Where fewer than ``k`` values are possible, the positions left over repeat the first value, with
    log-probability -inf.

    Attributes:
        values: ``(k,) + batch_shape + event_shape``.
        log_prob: their log-probabilities, without gradient, ``(k,) + batch_shape``.
        log_rest: log of the mass of all other values, ``batch_shape``; -inf if there are none.
    """

    values: Tensor
    log_prob: Tensor
    log_rest: Tensor


@runtime_checkable
class SamplesWithoutReplacement(Protocol):
    """A law that draws distinct values itself, without a list of its support."""

    def sample_without_replacement(self, k: int) -> DistinctDraws:
        """Draw ``k`` distinct values; all of them where there are fewer, or with some repeated as above."""


def possible_first(found: SequenceSet) -> Tensor:
    """Return the sequences of a beam search, ``batch_shape + (k, T)``, impossible ones replaced by the first."""
    impossible = (found.log_prob == -math.inf).unsqueeze(-1)
    return found.actions.where(~impossible, found.actions[..., :1, :])
