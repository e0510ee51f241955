"""Sets drawn without replacement, as values in their own right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
import torch
from torch import Tensor
from torch.distributions.constraints import dependent_property
from torch.distributions.kl import register_kl

from pyro_ext.distributions import constraints
from pyro_ext.distributions._draws import (
    DrawsWithoutReplacement,
    check_num_draws,
    given_parameter,
    kl_of_draws,
)
from pyro_ext.ops.sets import first_and_second_log_ratios, set_log_prob

__all__ = ["UnorderedSet"]


class UnorderedSet(DrawsWithoutReplacement):
    r"""The set of ``k`` categories drawn one after the other without replacement, their order forgotten.

    A value is an int64 tensor of event shape ``(k,)`` holding distinct category numbers in increasing order, so
    that equal sets are equal tensors. Its probability sums over the orders in which it can be drawn,

    .. math::  p(S) = \sum_{\text{orders } b \text{ of } S} \prod_{i=1}^k \frac{p_{b_i}}{1 - \sum_{j<i} p_{b_j}},

    computed exactly for every ``k`` (over subsets for ``k <= 11``, by quadrature above) in float64, and
    differentiable in the parameters.

    Args:
        k: the size of the set.
        logits: log-probabilities up to a constant, ``batch_shape + (K,)``; -inf for a category never drawn.
        probs: probabilities up to a factor instead, ``batch_shape + (K,)``.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``logits`` and ``probs`` is given; if it is no batch of vectors of
            log-probabilities or probabilities; if ``k`` is no integer from 1 to the number of positive categories.

    References:
        | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020)
        | https://arxiv.org/abs/2002.06043

    >>> d = UnorderedSet(2, probs=torch.tensor([0.5, 0.3, 0.2]))
    >>> d.enumerate_support().tolist()
    [[0, 1], [0, 2], [1, 2]]
    >>> d.log_prob(d.enumerate_support()).exp()
    tensor([0.5143, 0.3250, 0.1607])
    """

    def __init__(
        self,
        k: int,
        logits: Tensor | None = None,
        probs: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        num_categories = given_parameter(logits, probs).shape[-1]
        super().__init__(check_num_draws(k, num_categories), logits, probs, validate_args, num_categories)

    @dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.unordered_subset:
        """Increasing category numbers, ``(k,)``."""
        return constraints.unordered_subset(self.k, self.num_categories)

    @classmethod
    def infer_shapes(cls, **arg_shapes: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Raise a NotImplementedError: the event shape is the value of ``k``, which no shape tells."""
        raise NotImplementedError(
            "the event shape of an UnorderedSet is (k,): the shapes of its parameters do not tell"
        )

    @property
    def num_values(self) -> int:
        """The number of sets, ``K`` over ``k``."""
        return math.comb(self.num_categories, self.k)

    def _all_values(self) -> Tensor:
        flat = chain.from_iterable(combinations(range(self.num_categories), self.k))
        values = np.fromiter(flat, np.int64, self.num_values * self.k).reshape(-1, self.k)
        return torch.from_numpy(values).to(self.logits.device)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw sets, int64 ``sample_shape + batch_shape + (k,)``."""
        return self._draw(sample_shape).sort(-1).values

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the exact log-probability of sets ``(..., k)``, in the type of the parameters."""
        return set_log_prob(*self._masses(value)).to(self.logits.dtype)

    def log_leave_one_out_ratio(self, value: Tensor) -> Tensor:
        r"""Return :math:`\log R(S, s) = \log p^{D \setminus s}(S \setminus s) - \log p(S)` for every member.

        Args:
            value: sets, ``(..., k)``.

        Returns:
            ``batch + (k,)`` without gradient: :math:`p_s R(S, s)` are the weights of the unordered-set estimator.

        >>> d = UnorderedSet(2, probs=torch.tensor([0.5, 0.3, 0.2]))
        >>> d.probs[:2] * d.log_leave_one_out_ratio(torch.tensor([0, 1])).exp()
        tensor([0.5833, 0.4167])
        """
        return self._log_ratios(value)[0]

    def log_second_order_ratio(self, value: Tensor) -> Tensor:
        r"""Return :math:`\log R^{D \setminus s}(S, s')`, the ratios once ``s`` has left the domain and the set.

        Args:
            value: sets, ``(..., k)``.

        Returns:
            ``batch + (k, k)`` without gradient, row ``s``, column ``s'``, diagonal 0.
        """
        return self._log_ratios(value)[1]

    @torch.no_grad()
    def _log_ratios(self, value: Tensor) -> tuple[Tensor, Tensor]:
        first, second = first_and_second_log_ratios(*self._masses(value))
        return first.to(self.logits.dtype), second.to(self.logits.dtype)


@register_kl(UnorderedSet, UnorderedSet)
def _kl(q: UnorderedSet, p: UnorderedSet) -> Tensor:
    return kl_of_draws(q, p)
