"""Families whose values are permutations and whose probabilities are known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from pyro_ext.distributions import PermutationMatching, StickBreakingPermutation
from pyro_ext.distributions.permutations import PermutationDistribution
from pyro_ext.models.permutation_matching._family import Family, masked, refuse_mask, validation
from pyro_ext.models.permutation_matching.uniform import UniformPermutation
from pyro_ext.ops.birkhoff import sticks_of

__all__ = ["ExactStickBreakingFamily", "MatchingFamily"]


class _Exact(Family):
    relaxed: ClassVar[bool] = False

    @abstractmethod
    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> PermutationDistribution: ...

    def exact(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> PermutationDistribution:
        return self.posterior(parameters, mask)

    def permutations(self, parameters: Mapping[str, Tensor], num_samples: int, mask: Tensor | None = None) -> Tensor:
        return self.posterior(parameters, mask).sample(torch.Size([num_samples]))


class ExactStickBreakingFamily(_Exact):
    """The law that stick-breaking tends to at temperature zero."""

    def initial(self, num_items: int) -> dict[str, Tensor]:
        return {"logits": torch.zeros(num_items, self.size - 1, self.size - 1)}

    def near(self, matrices: Tensor) -> dict[str, Tensor]:
        taken, left = sticks_of(matrices)
        return {"logits": taken.log() - left.log()}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> PermutationDistribution:
        refuse_mask(mask)
        return StickBreakingPermutation(parameters["logits"])

    def prior(self, like: Tensor, mask: Tensor | None = None) -> PermutationDistribution:
        refuse_mask(mask)
        return UniformPermutation(like.new_zeros(self.size, self.size))


class MatchingFamily(_Exact):
    """The exponential family, which holds the posterior of a matching whose cells are independent."""

    def initial(self, num_items: int) -> dict[str, Tensor]:
        return {"loc": torch.zeros(num_items, self.size, self.size)}

    def near(self, matrices: Tensor) -> dict[str, Tensor]:
        return {"loc": matrices.log()}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> PermutationDistribution:
        return PermutationMatching(masked(parameters["loc"], mask), validate_args=validation(mask))

    def prior(self, like: Tensor, mask: Tensor | None = None) -> PermutationDistribution:
        zeros = like.new_zeros(self.size, self.size)
        if mask is None:  # the same law without a permanent
            return UniformPermutation(zeros)
        return PermutationMatching(masked(zeros, mask), validate_args=False)
