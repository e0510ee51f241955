"""Ordered draws without replacement: rankings and their leading parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, permutations

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
from pyro_ext.distributions.distinct import DistinctDraws, distinct_values
from pyro_ext.ops.sets import order_log_prob, stochastic_beam_search

__all__ = ["PlackettLuce"]


class PlackettLuce(DrawsWithoutReplacement):
    r"""``k`` categories drawn one after the other without replacement, in the order drawn.

    A value is an int64 tensor of event shape ``(k,)`` holding distinct category numbers, first drawn first; with
    ``k = K`` it is a ranking of all categories. Its probability is

    .. math::  p(b) = \prod_{i=1}^k \frac{p_{b_i}}{1 - \sum_{j<i} p_{b_j}},

    differentiable in the parameters.

    Args:
        logits: log-probabilities up to a constant, ``batch_shape + (K,)``; -inf for a category never drawn.
        k: the number of draws; all ``K`` if None.
        probs: probabilities up to a factor instead of ``logits``, ``batch_shape + (K,)``.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``logits`` and ``probs`` is given; if it is no batch of vectors of
            log-probabilities or probabilities; if ``k`` is no integer from 1 to the number of positive categories.

    References:
        | The analysis of permutations (Plackett, 1975), https://doi.org/10.2307/2346567
        | Individual choice behavior (Luce, 1959)

    >>> d = PlackettLuce(torch.tensor([0.5, 0.3, 0.2]).log(), k=2)
    >>> d.log_prob(torch.tensor([[0, 1], [1, 0]])).exp()
    tensor([0.3000, 0.2143])
    """

    def __init__(
        self,
        logits: Tensor | None = None,
        k: int | None = None,
        probs: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        num_categories = given_parameter(logits, probs).shape[-1]
        k = num_categories if k is None else check_num_draws(k, num_categories)
        super().__init__(k, logits, probs, validate_args, num_categories)

    @dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.ordered_subset:
        """Distinct category numbers, ``(k,)``."""
        return constraints.ordered_subset(self.k, self.num_categories)

    @classmethod
    def infer_shapes(cls, **arg_shapes: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape of a distribution of full rankings with parameters of these shapes.

        Raises:
            NotImplementedError: if ``k`` is among them, since the event shape is its value.
        """
        if "k" in arg_shapes:
            raise NotImplementedError("with k the event shape is (k,): the shapes of the parameters do not tell")
        shape = torch.Size(arg_shapes["logits" if "logits" in arg_shapes else "probs"])
        return shape[:-1], shape[-1:]

    @property
    def num_values(self) -> int:
        """The number of orders, ``K! / (K - k)!``."""
        return math.perm(self.num_categories, self.k)

    def _all_values(self) -> Tensor:
        flat = chain.from_iterable(permutations(range(self.num_categories), self.k))
        values = np.fromiter(flat, np.int64, self.num_values * self.k).reshape(-1, self.k)
        return torch.from_numpy(values).to(self.logits.device)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw orders, int64 ``sample_shape + batch_shape + (k,)``."""
        return self._draw(sample_shape)

    @torch.no_grad()
    def sample_without_replacement(self, k: int) -> DistinctDraws:
        """Draw ``k`` distinct orders, one after the other without replacement, by a beam search with Gumbel noise.

        The sample-set ELBOs draw their sets from here.

        Args:
            k: the number of orders (not of the draws in each); all of them if there are no more.

        Returns:
            :class:`DistinctDraws`; ``values`` have shape ``(k,) + batch_shape + (self.k,)``.

        Raises:
            ValueError: if ``k`` is not an integer of at least 1.

        References:
            | Stochastic beams and where to find them (Kool et al., 2019)
            | https://arxiv.org/abs/1903.06059

        >>> PlackettLuce(probs=torch.tensor([0.5, 0.3, 0.2]), k=2).sample_without_replacement(6).log_rest.exp()
        tensor(0., dtype=torch.float64)
        """
        logits = self.logits.double().unsqueeze(-2)

        def choose(drawn: Tensor) -> Tensor:
            left = logits.expand(*drawn.shape[:-1], -1).scatter(-1, drawn, -math.inf)
            nothing = (left == -math.inf).all(-1, keepdim=True)  # after an impossible draw
            return left.masked_fill(nothing, 0).log_softmax(-1)

        orders = stochastic_beam_search(choose, self.k, k, batch_shape=self.batch_shape, device=logits.device)
        return distinct_values(orders, lambda order: order)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of orders ``(..., k)``, in the type of the parameters."""
        return order_log_prob(*self._masses(value)).to(self.logits.dtype)


@register_kl(PlackettLuce, PlackettLuce)
def _kl(q: PlackettLuce, p: PlackettLuce) -> Tensor:
    return kl_of_draws(q, p)
