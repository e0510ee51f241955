"""Families of variational distributions of a permutation, and a guide with parameters of its own for each item.

A family says what the latent site of a matching model is. The model and the guide share one:

* in the model ``value = pyro.sample("x", family.prior(like, mask))`` and ``matrix = family.matrix(value, mask)``;
* in the guide ``pyro.sample("x", family.posterior(parameters, mask))``.

The families here are exact: values are permutations, and the prior is uniform. The relaxed ones are in
:mod:`~pyro_ext.models.toolkit.relaxed_permutations`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.distributions import PermutationMatching, StickBreakingPermutation, UniformPermutation
from pyro_ext.distributions.permutations import PermutationDistribution
from pyro_ext.ops.assignment import best_permutation
from pyro_ext.ops.birkhoff import sticks_of
from pyro_ext.utils.checks import number_between, positive_int

__all__ = [
    "ExactStickBreakingFamily",
    "MatchingFamily",
    "PermutationFamily",
    "PermutationGuide",
    "masked",
    "refuse_mask",
    "validation",
]


class PermutationFamily(ABC):
    """A family of variational distributions of a permutation of N elements, batched over items.

    Args:
        size: the number N of elements.

    Raises:
        ValueError: if ``size`` is not a positive integer.
    """

    relaxed: ClassVar[bool] = True
    """Whether the matrices in the model lie between permutations."""

    def __init__(self, size: int) -> None:
        self.size = positive_int("size", size)

    @abstractmethod
    def initial_parameters(self, num_items: int) -> dict[str, Tensor]:
        """Return the parameters before training, each of shape ``(num_items, ...)`` and free of constraints."""

    @abstractmethod
    def parameters_near(self, matrices: Tensor) -> dict[str, Tensor]:
        """Return location parameters at doubly stochastic matrices with positive cells, ``(B, N, N)``."""

    @abstractmethod
    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of the guide's site, of batch shape ``(B,)``.

        Args:
            parameters: those of :meth:`initial_parameters` for B items.
            mask: the allowed cells, with a permutation among them, bool, broadcast to ``(B, N, N)``; all if None.
        """

    @abstractmethod
    def prior(self, like: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of the model's site, in the type and on the device of ``like``."""

    def matrix(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the matrix X, ``(..., N, N)``, that a value of the site stands for."""
        return value

    def permutation_distribution(
        self, parameters: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> PermutationDistribution | None:
        """Return the distribution of :meth:`sample_permutations` where its probabilities are known, else None."""
        return None

    @torch.no_grad()
    def sample_permutations(
        self, parameters: Mapping[str, Tensor], num_samples: int, mask: Tensor | None = None
    ) -> Tensor:
        """Draw samples and return the permutations nearest to them, ``(num_samples, B, N, N)``."""
        matrices = self.matrix(self.posterior(parameters, mask).sample(torch.Size([num_samples])), mask)
        return best_permutation(masked(matrices, mask))


class _ExactFamily(PermutationFamily):
    """A family whose values are permutations of known probability."""

    relaxed: ClassVar[bool] = False

    @abstractmethod
    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> PermutationDistribution: ...

    def permutation_distribution(
        self, parameters: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> PermutationDistribution:
        """Return the distribution of the guide's site itself."""
        return self.posterior(parameters, mask)

    def sample_permutations(
        self, parameters: Mapping[str, Tensor], num_samples: int, mask: Tensor | None = None
    ) -> Tensor:
        """Draw permutations, ``(num_samples, B, N, N)``."""
        return self.posterior(parameters, mask).sample(torch.Size([num_samples]))


class ExactStickBreakingFamily(_ExactFamily):
    """The limit of stick-breaking at temperature zero, :class:`~pyro_ext.distributions.StickBreakingPermutation`."""

    def initial_parameters(self, num_items: int) -> dict[str, Tensor]:
        """Return logits of 0 for every stick."""
        return {"logits": torch.zeros(num_items, self.size - 1, self.size - 1)}

    def parameters_near(self, matrices: Tensor) -> dict[str, Tensor]:
        """Return the logits of sticks whose shares fill these matrices."""
        taken, left = sticks_of(matrices)
        return {"logits": taken.log() - left.log()}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> PermutationDistribution:
        """Return the distribution of the guide's site, a permutation."""
        refuse_mask(mask)
        return StickBreakingPermutation(parameters["logits"])

    def prior(self, like: Tensor, mask: Tensor | None = None) -> PermutationDistribution:
        """Return the uniform distribution of permutations."""
        refuse_mask(mask)
        return UniformPermutation(like.new_zeros(self.size, self.size))


class MatchingFamily(_ExactFamily):
    """The exponential family, to which the posterior of a matching belongs where rows are independent given X."""

    def initial_parameters(self, num_items: int) -> dict[str, Tensor]:
        """Return log-potentials of 0, whose distribution is uniform."""
        return {"loc": torch.zeros(num_items, self.size, self.size)}

    def parameters_near(self, matrices: Tensor) -> dict[str, Tensor]:
        """Return the logarithms of the cells."""
        return {"loc": matrices.log()}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> PermutationDistribution:
        """Return the distribution of the guide's site, a permutation of allowed cells."""
        return PermutationMatching(masked(parameters["loc"], mask), validate_args=validation(mask))

    def prior(self, like: Tensor, mask: Tensor | None = None) -> PermutationDistribution:
        """Return the uniform distribution of the permutations of allowed cells."""
        zeros = like.new_zeros(self.size, self.size)
        if mask is None:  # the same distribution without a permanent
            return UniformPermutation(zeros)
        return PermutationMatching(masked(zeros, mask), validate_args=False)


class PermutationGuide(PyroModule):
    """Variational parameters of its own for each item, without amortisation; a subclass says what is sampled.

    Args:
        family: the family of the items' distributions.
        num_items: the number of items.

    Raises:
        ValueError: if ``num_items`` is not a positive integer.

    Example:
        >>> guide = PermutationGuide(MatchingFamily(size=3), num_items=5)
        >>> guide.posterior(torch.tensor([4, 0]))
        PermutationMatching(batch_shape: (2,), N=3)
        >>> guide.start_near(torch.eye(3).expand(5, 3, 3), confidence=0.7)
        >>> guide.permutation_distribution(torch.tensor([0])).mean.detach()
        tensor([[[0.9665, 0.0167, 0.0167],
                 [0.0167, 0.9665, 0.0167],
                 [0.0167, 0.0167, 0.9665]]])
    """

    def __init__(self, family: PermutationFamily, num_items: int) -> None:
        super().__init__()
        self.family = family
        self.num_items = positive_int("num_items", num_items)
        initial = family.initial_parameters(num_items)
        self.local = nn.ParameterDict({name: nn.Parameter(value) for name, value in initial.items()})

    @torch.no_grad()
    def start_near(self, permutations: Tensor, confidence: float = 0.9) -> None:
        """Set the location of every item to a permutation mixed with the matrix whose cells are all 1 / N.

        Args:
            permutations: ``(num_items, N, N)``.
            confidence: the weight of the permutation, in [0, 1).

        Raises:
            ValueError: if ``confidence`` is not in [0, 1).
        """
        number_between("confidence", confidence, 0, 1, "[)")
        matrices = confidence * permutations + (1 - confidence) / self.family.size
        for name, value in self.family.parameters_near(matrices).items():
            self.local[name].copy_(value)

    def parameters_of(self, index: Tensor | None = None) -> dict[str, Tensor]:
        """Return the parameters of the items ``index``, int64 ``(B,)``; of all items if None."""
        return {name: value if index is None else value[index] for name, value in self.local.items()}

    def posterior(self, index: Tensor | None = None, mask: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of the site of the items ``index``, with ``mask`` of their allowed cells."""
        return self.family.posterior(self.parameters_of(index), mask)

    def permutation_distribution(
        self, index: Tensor | None = None, mask: Tensor | None = None
    ) -> PermutationDistribution | None:
        """Return the distribution of the items' permutations where its probabilities are known, else None."""
        return self.family.permutation_distribution(self.parameters_of(index), mask)

    def sample_permutations(self, num_samples: int, index: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Draw permutations of the items ``index``, ``(num_samples, B, N, N)``."""
        return self.family.sample_permutations(self.parameters_of(index), num_samples, mask)


def masked(matrix: Tensor, mask: Tensor | None) -> Tensor:
    """Return scores that are -inf in cells that are not allowed."""
    return matrix if mask is None else matrix.masked_fill(~mask, -math.inf)


def validation(mask: Tensor | None) -> bool | None:
    """Return whether distributions check their arguments: not those with a mask, which its maker has checked."""
    return None if mask is None else False


def refuse_mask(mask: Tensor | None) -> None:
    """Raise a ValueError if there is a mask."""
    if mask is not None:
        raise ValueError("mask is not for stick-breaking: use rounding, gumbel_sinkhorn or matching")
