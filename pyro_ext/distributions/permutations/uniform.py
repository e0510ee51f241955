"""The uniform distribution of permutations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ext.distributions.permutations._discrete import PermutationDistribution
from pyro_ext.distributions.permutations._parameters import check_matrix, matrix_shapes
from pyro_ext.ops.assignment import permutation_matrix

__all__ = ["UniformPermutation"]


class UniformPermutation(PermutationDistribution):
    r"""Permutation matrices of equal probability, of any size.

    .. math::  P(X) = \frac{1}{N!}.

    Args:
        like: a matrix that gives N, the batch shape, the type and the device, ``batch_shape + (N, N)``; its values are
            of no importance.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``like`` is no batch of square matrices.

    Example:
        >>> d = UniformPermutation(torch.zeros(3, 3))
        >>> d.log_prob(d.sample()).exp()
        tensor(0.1667)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"like": constraints.independent(constraints.real, 2)}

    def __init__(self, like: Tensor, validate_args: bool | None = None) -> None:
        check_matrix("like", like)
        self.like = like
        super().__init__(like.shape[-1], like.shape[:-2], validate_args)

    @property
    def _parameter(self) -> Tensor:
        return self.like

    @classmethod
    def infer_shapes(cls, like: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape for a parameter of this shape."""
        return matrix_shapes(like)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw permutation matrices, ``sample_shape + batch_shape + (N, N)``."""
        shape = torch.Size(sample_shape) + self.like.shape[:-1]
        order = torch.rand(shape, dtype=torch.float64, device=self.like.device).argsort(-1)
        return permutation_matrix(order, self.like.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``-log N!`` for every permutation matrix ``(..., N, N)``."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-2], self.batch_shape)
        return self.like.new_full(shape, -math.lgamma(self.permutation_size + 1))
