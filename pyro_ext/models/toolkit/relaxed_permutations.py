r"""Relaxed families of variational distributions of a permutation, with their priors and settings.

Rounding and stick-breaking share a prior, with standard deviation :math:`\eta`,

.. math::  p(X) = \prod_{mn} \tfrac12 \left[ N(x_{mn}; 0, \eta^2) + N(x_{mn}; 1, \eta^2) \right],

which draws the cells towards 0 and 1. The site of Gumbel-Sinkhorn is the matrix of perturbed scores, whose prior is
Gumbel too.

References:
    | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
    | https://arxiv.org/abs/1710.09508
    | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018)
    | https://arxiv.org/abs/1802.08665
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ext.distributions import GumbelSinkhorn, RelaxedRoundingPermutation, RelaxedStickBreakingPermutation
from pyro_ext.distributions.permutations.rounding import Gradient
from pyro_ext.distributions.transforms import BirkhoffStickBreaking
from pyro_ext.models.toolkit.permutations import PermutationFamily, masked, refuse_mask, validation
from pyro_ext.ops.assignment import best_permutation
from pyro_ext.utils.checks import number_between, one_of, optional_positive_int, positive_number

__all__ = [
    "GumbelSinkhornFamily",
    "GumbelSinkhornSettings",
    "RoundingFamily",
    "RoundingSettings",
    "StickBreakingFamily",
    "StickBreakingSettings",
]


@dataclass(frozen=True)
class RoundingSettings:
    """What is fixed about :class:`RoundingFamily`.

    Args:
        temperature: how far matrices lie from the nearest permutation, in (0, 1]; at 1 they are not rounded at all.
        min_scale: the smallest standard deviation of the Gaussian noise on a cell.
        max_scale: the largest standard deviation of the Gaussian noise on a cell.
        prior_scale: the standard deviation of the prior of a cell around 0 and around 1.
        num_iterations: the number of Sinkhorn iterations, 10 in the paper; if None, to a tolerance of 1e-8.
        gradient: how gradients pass through rounding.

    Raises:
        ValueError: if an option is out of range, or ``min_scale`` is not below ``max_scale``.
    """

    temperature: float = 1.0
    min_scale: float = 0.1
    max_scale: float = 0.25
    prior_scale: float = 0.55
    num_iterations: int | None = 10
    gradient: Gradient = "pathwise"

    def __post_init__(self) -> None:
        number_between("temperature", self.temperature, 0, 1, "(]")
        _check_scales(self)
        optional_positive_int("num_iterations", self.num_iterations)
        one_of("gradient", self.gradient, get_args(Gradient))


@dataclass(frozen=True)
class StickBreakingSettings:
    """What is fixed about :class:`StickBreakingFamily`.

    Args:
        temperature: how far matrices lie from permutations; near 0 they come close to them.
        min_scale: the smallest standard deviation of the Gaussian noise behind a stick.
        max_scale: the largest standard deviation of the Gaussian noise behind a stick.
        prior_scale: the standard deviation of the prior of a cell around 0 and around 1.

    Raises:
        ValueError: if an option is out of range, or ``min_scale`` is not below ``max_scale``.
    """

    temperature: float = 1.0
    min_scale: float = 0.1
    max_scale: float = 1.0
    prior_scale: float = 0.55

    def __post_init__(self) -> None:
        positive_number("temperature", self.temperature)
        _check_scales(self)


@dataclass(frozen=True)
class GumbelSinkhornSettings:
    """What is fixed about :class:`GumbelSinkhornFamily`.

    Args:
        temperature: how far matrices lie from permutations; near 0 they come close to them.
        prior_temperature: the temperature of the prior.
        num_iterations: the number of Sinkhorn iterations, 10 in the paper; if None, to a tolerance of 1e-8.

    Raises:
        ValueError: if an option is out of range.
    """

    temperature: float = 1.0
    prior_temperature: float = 0.5
    num_iterations: int | None = 10

    def __post_init__(self) -> None:
        positive_number("temperature", self.temperature)
        positive_number("prior_temperature", self.prior_temperature)
        optional_positive_int("num_iterations", self.num_iterations)


class _GaussianFamily(PermutationFamily):
    """Gaussian noise with bounded scales, and the mixture prior."""

    settings: RoundingSettings | StickBreakingSettings

    def prior(self, like: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of the model's site: cells near 0 or 1."""
        ends = like.new_tensor([0.0, 1.0]).expand(self.size, self.size, 2)
        components = dist.Normal(ends, self.settings.prior_scale, validate_args=False)
        halves = dist.Categorical(logits=torch.zeros_like(ends), validate_args=False)
        cells: Any = dist.MixtureSameFamily(halves, components, validate_args=False)
        return _joint(cells, mask)

    def _scale(self, parameters: Mapping[str, Tensor]) -> Tensor:
        low, high = self.settings.min_scale, self.settings.max_scale
        return low + (high - low) * parameters["raw_scale"].sigmoid()


class RoundingFamily(_GaussianFamily):
    r"""Doubly stochastic matrices M with Gaussian noise, moved towards the nearest permutation.

    .. math::  X = \tau Z + (1 - \tau)\, \mathrm{round}(Z), \qquad Z_{mn} \sim N(M_{mn}, s_{mn}^2).

    Args:
        size: the number N of elements.
        settings: what is fixed about the family.

    References:
        | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
        | https://arxiv.org/abs/1710.09508

    Example:
        >>> family = RoundingFamily(3, RoundingSettings(min_scale=0.1, max_scale=0.3, prior_scale=0.5))
        >>> d = family.posterior(family.initial_parameters(num_items=5))
        >>> d, d.scale[0, 0]
        (RelaxedRoundingPermutation(batch_shape: (5,), N=3, gradient='pathwise'), tensor([0.2000, 0.2000, 0.2000]))
        >>> family.prior(torch.zeros(())).log_prob(torch.eye(3))
        tensor(-7.1281)
    """

    settings: RoundingSettings

    def __init__(self, size: int, settings: RoundingSettings) -> None:
        super().__init__(size)
        self.settings = settings

    def initial_parameters(self, num_items: int) -> dict[str, Tensor]:
        """Return log-potentials of 0, so that all cells are 1 / N, and scales in the middle of their bounds."""
        shape = (num_items, self.size, self.size)
        return {"loc": torch.zeros(shape), "raw_scale": torch.zeros(shape)}

    def parameters_near(self, matrices: Tensor) -> dict[str, Tensor]:
        """Return the logarithms of the cells."""
        return {"loc": matrices.log()}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> RelaxedRoundingPermutation:
        """Return the distribution of the guide's site, a matrix near permutations."""
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
    def sample_permutations(
        self, parameters: Mapping[str, Tensor], num_samples: int, mask: Tensor | None = None
    ) -> Tensor:
        """Draw noisy matrices and return the permutations nearest to them, ``(num_samples, B, N, N)``."""
        # A sample and the noisy matrix behind it have the same nearest permutation: round only once.
        d = self.posterior(parameters, mask)
        noise = torch.randn(num_samples, *d.centre.shape, dtype=d.centre.dtype, device=d.centre.device)
        return best_permutation(masked(d.centre + d.scale * noise, mask))


class StickBreakingFamily(_GaussianFamily):
    r"""Doubly stochastic matrices filled cell by cell from Gaussian noise.

    .. math::  X = \mathrm{StickBreaking}(\psi / \tau), \qquad \psi_{mn} \sim N(\mu_{mn}, s_{mn}^2).

    Args:
        size: the number N of elements.
        settings: what is fixed about the family.

    References:
        | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
        | https://arxiv.org/abs/1710.09508

    Example:
        >>> family = StickBreakingFamily(3, StickBreakingSettings())
        >>> family.posterior(family.initial_parameters(num_items=5)).sample().sum(-1)[0]
        tensor([1.0000, 1.0000, 1.0000])
    """

    settings: StickBreakingSettings

    def __init__(self, size: int, settings: StickBreakingSettings) -> None:
        super().__init__(size)
        self.settings = settings

    def initial_parameters(self, num_items: int) -> dict[str, Tensor]:
        """Return means of 0, in the centre of all permutations, and scales in the middle of their bounds."""
        shape = (num_items, self.size - 1, self.size - 1)
        return {"loc": torch.zeros(shape), "raw_scale": torch.zeros(shape)}

    def parameters_near(self, matrices: Tensor) -> dict[str, Tensor]:
        """Return the means of noise that gives these matrices."""
        return {"loc": self.settings.temperature * BirkhoffStickBreaking().inv(matrices)}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of the guide's site, a doubly stochastic matrix."""
        refuse_mask(mask)
        return RelaxedStickBreakingPermutation(parameters["loc"], self._scale(parameters), self.settings.temperature)

    def prior(self, like: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of the model's site: cells near 0 or 1."""
        refuse_mask(mask)
        return super().prior(like)


class GumbelSinkhornFamily(PermutationFamily):
    r"""Scores perturbed by Gumbel noise and scaled to doubly stochastic matrices; the site are the perturbed scores.

    .. math::  X = \mathrm{Sinkhorn}(\exp((L + G) / \tau)), \qquad G_{mn} \sim \mathrm{Gumbel}(0, 1).

    Args:
        size: the number N of elements.
        settings: what is fixed about the family.

    References:
        | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018)
        | https://arxiv.org/abs/1802.08665

    Example:
        >>> family = GumbelSinkhornFamily(3, GumbelSinkhornSettings(prior_temperature=0.5))
        >>> family.prior(torch.zeros(())).base_dist.scale[0, 0]
        tensor(2.)
    """

    def __init__(self, size: int, settings: GumbelSinkhornSettings) -> None:
        super().__init__(size)
        self.settings = settings

    def initial_parameters(self, num_items: int) -> dict[str, Tensor]:
        """Return scores of 0."""
        return {"loc": torch.zeros(num_items, self.size, self.size)}

    def parameters_near(self, matrices: Tensor) -> dict[str, Tensor]:
        """Return the logarithms of the cells as scores."""
        return {"loc": matrices.log()}

    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of the guide's site, the perturbed scores of allowed cells."""
        return _joint(self._relaxation(parameters["loc"], mask).noise().base_dist, mask)

    def prior(self, like: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of the model's site, perturbed scores around 0."""
        # Divided by the temperature, as the matrix takes the scores, it is Gumbel(0, 1 / prior_temperature).
        scale = self.settings.temperature / self.settings.prior_temperature
        loc = like.new_zeros(self.size, self.size)
        return _joint(dist.Gumbel(loc, torch.full_like(loc, scale), validate_args=False), mask)

    def matrix(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the doubly stochastic matrix of perturbed scores, ``(..., N, N)``."""
        return self._relaxation(value, mask).from_noise(value)

    def sample_permutations(
        self, parameters: Mapping[str, Tensor], num_samples: int, mask: Tensor | None = None
    ) -> Tensor:
        """Draw best matchings under perturbed scores, ``(num_samples, B, N, N)``."""
        limit = self._relaxation(parameters["loc"], mask).zero_temperature_limit()
        return limit.sample(torch.Size([num_samples]))

    def _relaxation(self, scores: Tensor, mask: Tensor | None) -> GumbelSinkhorn:
        return GumbelSinkhorn(
            masked(scores, mask),
            self.settings.temperature,
            num_iterations=self.settings.num_iterations,
            validate_args=False,
        )


def _check_scales(settings: RoundingSettings | StickBreakingSettings) -> None:
    for name in ("min_scale", "max_scale", "prior_scale"):
        positive_number(name, getattr(settings, name))
    if settings.min_scale >= settings.max_scale:
        raise ValueError(f"min_scale={settings.min_scale} must lie below max_scale={settings.max_scale}")


def _joint(cells: Any, mask: Tensor | None) -> Any:
    """Return the joint distribution of all cells ``(N, N)``, of which those outside the mask do not count."""
    return (cells if mask is None else cells.mask(mask)).to_event(2)
