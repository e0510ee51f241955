"""The exponential family over permutations, exact for small sizes, and its uniform member, of any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import lazy_property

from pyro_ext.distributions.permutations._discrete import PermutationDistribution, SequentialPermutation
from pyro_ext.distributions.permutations._parameters import check_matrix, check_potentials, matrix_shapes
from pyro_ext.ops.assignment import best_permutation, permutation_matrix
from pyro_ext.ops.permanent import MOST_ROWS, column_chooser, log_permanent, sample_matchings
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["PermutationMatching", "UniformPermutation"]


class PermutationMatching(SequentialPermutation):
    r"""Permutation matrices with probability proportional to the exponential of their total score.

    .. math::  P(X) = \exp(\langle L, X \rangle - \log Z), \qquad Z = \mathrm{per}(e^L).

    The permanent is summed over subsets of columns, so that everything is exact and batched: the log-probability, its
    gradients, samples, the marginals (:attr:`mean`), the mode, the entropy and divergences.
    ``pyro.distributions.OneOneMatching`` has neither batches nor samples without belief propagation.

    Args:
        log_potentials: the scores L, ``batch_shape + (N, N)`` with N at most 18; -inf for cells never used.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``log_potentials`` is no batch of square matrices, is too large, holds NaN or +inf, or leaves
            no permutation.

    References:
        | Dynamic programming treatment of the travelling salesman problem (Bellman, 1962), whose recursion over
        | subsets this is, https://doi.org/10.1145/321105.321111

    >>> d = PermutationMatching(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).log())
    >>> d.log_prob(d.enumerate_support()).exp()
    tensor([0.4000, 0.6000])
    >>> d.mean
    tensor([[0.4000, 0.6000], [0.6000, 0.4000]])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"log_potentials": constraints.independent(constraints.real, 2)}

    def __init__(self, log_potentials: Tensor, validate_args: bool | None = None) -> None:
        check_matrix("log_potentials", log_potentials)
        if log_potentials.shape[-1] > MOST_ROWS:
            raise ValueError(
                f"log_potentials has {log_potentials.shape[-1]} rows, but exact sums take at most {MOST_ROWS}: "
                "use GumbelSinkhorn or RelaxedStickBreakingPermutation instead"
            )
        if self._validate_args if validate_args is None else validate_args:
            check_potentials(log_potentials)
        self.log_potentials = log_potentials
        super().__init__(log_potentials.shape[-1], log_potentials.shape[:-2], validate_args)

    @property
    def _parameter(self) -> Tensor:
        return self.log_potentials

    @classmethod
    def infer_shapes(cls, log_potentials: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape for a parameter of this shape."""
        return matrix_shapes(log_potentials)

    @lazy_property
    def log_normalizer(self) -> Tensor:
        """The log of the permanent, ``batch_shape``."""
        return log_permanent(self.log_potentials)

    @property
    def _finite_potentials(self) -> Tensor:
        return self.log_potentials.masked_fill(self.log_potentials == -math.inf, 0)

    @property
    def mean(self) -> Tensor:
        """The probability of every cell to hold the one, doubly stochastic ``batch_shape + (N, N)``.

        It is the gradient of the log-normaliser, and differentiable itself.
        """
        differentiable = torch.is_grad_enabled() and self.log_potentials.requires_grad
        with torch.enable_grad():
            potentials = self.log_potentials
            if not differentiable:
                potentials = potentials.detach().requires_grad_()
            (mean,) = torch.autograd.grad(log_permanent(potentials).sum(), potentials, create_graph=differentiable)
        return mean

    @property
    def mode(self) -> Tensor:
        """The most probable permutation matrix, ``batch_shape + (N, N)``."""
        return best_permutation(self.log_potentials)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw permutation matrices, ``sample_shape + batch_shape + (N, N)``."""
        index = sample_matchings(self.log_potentials, math.prod(sample_shape))
        matrices = permutation_matrix(index, self.log_potentials.dtype)
        return matrices.reshape(torch.Size(sample_shape) + self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the exact log-probability of permutation matrices ``(..., N, N)``."""
        if self._validate_args:
            self._validate_sample(value)
        never = self.log_potentials == -math.inf
        score = (value * self._finite_potentials).sum((-2, -1)) - self.log_normalizer
        return score.masked_fill(((value != 0) & never).any(-1).any(-1), -math.inf)

    def _chooser(self) -> Callable[[Tensor], Tensor]:
        return column_chooser(self.log_potentials)

    def _rows_in_order(self, columns: Tensor) -> Tensor:
        return columns.flip(-1)  # the chooser begins with the last row

    def entropy(self) -> Tensor:
        """Return the exact entropy in nats, ``batch_shape``."""
        return self.log_normalizer - (self.mean * self._finite_potentials).sum((-2, -1))


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
        shape = broadcast_shapes(value.shape[:-2], self.batch_shape)
        return self.like.new_full(shape, -math.lgamma(self.permutation_size + 1))


@register_kl(PermutationMatching, PermutationMatching)
def _kl(p: PermutationMatching, q: PermutationMatching) -> Tensor:
    if p.permutation_size != q.permutation_size:
        raise ValueError(
            f"p permutes {p.permutation_size} and q {q.permutation_size} elements: their supports must be the same"
        )
    mean = p.mean
    score = mean * (p._finite_potentials - q._finite_potentials)
    missed = ((mean > 0) & (q.log_potentials == -math.inf)).any(-1).any(-1)
    divergence = score.sum((-2, -1)) - p.log_normalizer + q.log_normalizer
    return divergence.masked_fill(missed, math.inf)
