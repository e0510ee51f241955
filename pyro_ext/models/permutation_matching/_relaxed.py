"""Families whose values lie between permutations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ext.distributions import GumbelSinkhorn, RelaxedRoundingPermutation, RelaxedStickBreakingPermutation
from pyro_ext.distributions.transforms import BirkhoffStickBreaking
from pyro_ext.models.permutation_matching._family import (
    Family,
    Settings,
    masked,
    refuse_mask,
    validation,
    within,
)
from pyro_ext.ops.assignment import best_permutation

__all__ = ["GumbelSinkhornFamily", "RoundingFamily", "StickBreakingFamily"]


class _Gaussian(Family):
    """Gaussian noise with bounded scales, and the mixture prior."""

    def prior(self, like: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        ends = like.new_tensor([0.0, 1.0]).expand(self.size, self.size, 2)
        components = dist.Normal(ends, self.settings.prior_scale, validate_args=False)
        halves = dist.Categorical(logits=torch.zeros_like(ends), validate_args=False)
        cells: Any = dist.MixtureSameFamily(halves, components, validate_args=False)
        return within(cells, mask)

    def _scale(self, parameters: Mapping[str, Tensor]) -> Tensor:
        low, high = self.settings.min_scale, self.settings.max_scale
        return low + (high - low) * parameters["raw_scale"].sigmoid()


class RoundingFamily(_Gaussian):
    """Gaussian noise around doubly stochastic matrices, rounded in part."""

    def __init__(self, size: int, settings: Settings) -> None:
        super().__init__(size, settings)
        if settings.temperature > 1:
            raise ValueError(f"temperature must be at most 1 for rounding, got {settings.temperature!r}")

    def initial(self, num_items: int) -> dict[str, Tensor]:
        shape = (num_items, self.size, self.size)
        return {"loc": torch.zeros(shape), "raw_scale": torch.zeros(shape)}

    def near(self, matrices: Tensor) -> dict[str, Tensor]:
        return {"loc": matrices.log()}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> RelaxedRoundingPermutation:
        return RelaxedRoundingPermutation(
            parameters["loc"],
            self._scale(parameters),
            self.settings.temperature,
            gradient=self.settings.gradient,
            mask=mask,
            num_iterations=self.settings.num_iterations,
            validate_args=validation(mask),
        )

    @torch.no_grad()
    def permutations(self, parameters: Mapping[str, Tensor], num_samples: int, mask: Tensor | None = None) -> Tensor:
        # a sample and the noise behind it round to the same permutation: round only once
        law = self.posterior(parameters, mask)
        noise = torch.randn(num_samples, *law.centre.shape, dtype=law.centre.dtype, device=law.centre.device)
        return best_permutation(masked(law.centre + law.scale * noise, mask))


class StickBreakingFamily(_Gaussian):
    """Doubly stochastic matrices filled cell by cell."""

    def initial(self, num_items: int) -> dict[str, Tensor]:
        shape = (num_items, self.size - 1, self.size - 1)
        return {"loc": torch.zeros(shape), "raw_scale": torch.zeros(shape)}

    def near(self, matrices: Tensor) -> dict[str, Tensor]:
        return {"loc": self.settings.temperature * BirkhoffStickBreaking().inv(matrices)}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> TorchDistribution:
        refuse_mask(mask)
        return RelaxedStickBreakingPermutation(parameters["loc"], self._scale(parameters), self.settings.temperature)

    def prior(self, like: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        refuse_mask(mask)
        return super().prior(like)


class GumbelSinkhornFamily(Family):
    """Doubly stochastic scalings of scores disturbed by Gumbel noise; the site are the disturbed scores."""

    def initial(self, num_items: int) -> dict[str, Tensor]:
        return {"loc": torch.zeros(num_items, self.size, self.size)}

    def near(self, matrices: Tensor) -> dict[str, Tensor]:
        return {"loc": matrices.log()}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> TorchDistribution:
        law = self._law(parameters["loc"], mask)
        return within(law.noise().base_dist, mask)

    def prior(self, like: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        # divided by the temperature, as the matrix takes the scores, it is Gumbel(0, 1 / prior_temperature)
        scale = self.settings.temperature / self.settings.prior_temperature
        loc = like.new_zeros(self.size, self.size)
        return within(dist.Gumbel(loc, torch.full_like(loc, scale), validate_args=False), mask)

    def matrix(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._law(value, mask).from_noise(value)

    def permutations(self, parameters: Mapping[str, Tensor], num_samples: int, mask: Tensor | None = None) -> Tensor:
        law = self._law(parameters["loc"], mask).zero_temperature_limit()
        return law.sample(torch.Size([num_samples]))

    def _law(self, potentials: Tensor, mask: Tensor | None) -> GumbelSinkhorn:
        return GumbelSinkhorn(
            masked(potentials, mask),
            self.settings.temperature,
            num_iterations=self.settings.num_iterations,
            validate_args=False,
        )
