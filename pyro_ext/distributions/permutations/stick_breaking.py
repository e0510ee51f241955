"""The exact distribution of permutations to which stick-breaking tends at temperature zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.nn.functional import logsigmoid

from pyro_ext.distributions.permutations._discrete import SequentialPermutation
from pyro_ext.distributions.permutations._parameters import check_matrix, check_values, matrix_shapes
from pyro_ext.distributions.structure import enumerated_kl
from pyro_ext.ops.birkhoff import break_sticks, sticks_of

__all__ = ["StickBreakingPermutation"]


class StickBreakingPermutation(SequentialPermutation):
    r"""Permutation matrices filled cell by cell, each free cell a coin of its own.

    It is the distribution of ``RelaxedStickBreakingPermutation`` at temperature zero: where the cells above and to the
    left leave a choice, cell ``(m, n)`` is 1 with probability :math:`\rho_{mn} = \mathrm{sigmoid}(\ell_{mn})`. So

    .. math::  \log P(X) = \sum_{mn} u_{mn} \log \rho_{mn} + d_{mn} \log (1 - \rho_{mn}),

    where u is 1 for cells that were free and went up, d for those that were free and stayed down. It is
    normalised over all ``N!`` permutations, in :math:`O(N^2)`. All permutations have positive probability.

    Args:
        logits: the log-odds :math:`\ell`, ``batch_shape + (N - 1, N - 1)``.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``logits`` is no batch of square matrices, or holds NaN or inf.

    References:
        | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018),
        | https://arxiv.org/abs/1710.09508, whose limit of zero temperature it is; the closed form is ours

    >>> d = StickBreakingPermutation(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    >>> d.log_prob(d.enumerate_support()).exp()
    tensor([0.4404, 0.0596, 0.1828, 0.1828, 0.0672, 0.0672])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.independent(constraints.real, 2)}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        check_matrix("logits", logits, least=0)
        if self._validate_args if validate_args is None else validate_args:
            check_values("logits", logits)
        self.logits = logits
        super().__init__(logits.shape[-1] + 1, logits.shape[:-2], validate_args)

    @property
    def _parameter(self) -> Tensor:
        return self.logits

    @classmethod
    def infer_shapes(cls, logits: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape for a parameter of this shape."""
        return matrix_shapes(logits, grow=1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw permutation matrices, ``sample_shape + batch_shape + (N, N)``."""
        logits = self.logits.expand(torch.Size(sample_shape) + self.logits.shape)
        up = torch.bernoulli(logits.sigmoid())
        return break_sticks(up, 1 - up)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the exact log-probability of permutation matrices ``(..., N, N)``."""
        if self._validate_args:
            self._validate_sample(value)
        up, down = sticks_of(value)  # both are zero where the cell had no choice
        return (up * logsigmoid(self.logits) + down * logsigmoid(-self.logits)).sum((-2, -1))

    def _chooser(self) -> Callable[[Tensor], Tensor]:
        never = self.logits.new_zeros((*self.batch_shape, self.permutation_size - 1, 1))
        logits = torch.cat([self.logits, never], -1).double()

        def choose(columns: Tensor) -> Tensor:
            free = torch.ones((*columns.shape[:-1], self.permutation_size), dtype=torch.bool, device=columns.device)
            free.scatter_(-1, columns, False)
            row = columns.shape[-1]
            if row == self.permutation_size - 1:
                return free.double().log()
            ell = logits[..., row, :].unsqueeze(-2)
            stayed = logsigmoid(-ell) * free
            # the last free column takes the one if no other has
            last = free & (free.flip(-1).cumsum(-1).flip(-1) == 1)
            went_up = logsigmoid(ell).masked_fill(last, 0)
            return (stayed.cumsum(-1) - stayed + went_up).masked_fill(~free, -math.inf)

        return choose


@register_kl(StickBreakingPermutation, StickBreakingPermutation)
def _kl(q: StickBreakingPermutation, p: StickBreakingPermutation) -> Tensor:
    return enumerated_kl(q, p)
