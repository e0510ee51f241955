"""What families of variational laws of a permutation have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ext.distributions.permutations import PermutationDistribution
from pyro_ext.distributions.permutations.rounding import Gradient
from pyro_ext.ops.assignment import best_permutation
from pyro_ext.utils.checks import positive_int

__all__ = ["Family", "Settings", "masked", "refuse_mask", "validation", "within"]


@dataclass(frozen=True)
class Settings:
    r"""What is fixed about a family; each uses what concerns it.

    Args:
        temperature: of relaxed laws.
        min_scale: the least standard deviation of Gaussian noise.
        max_scale: the largest one.
        prior_scale: :math:`\eta` of the prior of rounding and stick-breaking.
        prior_temperature: of the prior of Gumbel-Sinkhorn.
        num_iterations: of Sinkhorn scaling, 10 in the paper; to a tolerance of 1e-8 if None.
        gradient: how gradients pass through rounding.

    Raises:
        ValueError: if a number is not positive and finite, or the bounds on the scale are in the wrong order.
    """

    temperature: float = 1.0
    min_scale: float = 0.1
    max_scale: float = 0.5
    prior_scale: float = 0.5
    prior_temperature: float = 1.0
    num_iterations: int | None = 10
    gradient: Gradient = "pathwise"

    def __post_init__(self) -> None:
        for name in ("temperature", "min_scale", "max_scale", "prior_scale", "prior_temperature"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive, finite number, got {value!r}")
        if self.min_scale >= self.max_scale:
            raise ValueError(f"min_scale={self.min_scale} must lie below max_scale={self.max_scale}")
        if self.num_iterations is not None:
            positive_int("num_iterations", self.num_iterations)
        if self.gradient not in get_args(Gradient):
            raise ValueError(f"gradient must be one of {', '.join(get_args(Gradient))}, got {self.gradient!r}")


class Family(ABC):
    """A family of laws of a permutation of N elements, batched over items.

    Args:
        size: N.
        settings: what is fixed about it.
    """

    relaxed: ClassVar[bool] = True
    """Whether the matrices in the model lie between permutations."""

    def __init__(self, size: int, settings: Settings) -> None:
        self.size = positive_int("size", size)
        self.settings = settings

    @abstractmethod
    def initial(self, num_items: int) -> dict[str, Tensor]:
        """Return where the parameters start, each of shape ``(num_items, ...)`` and free of constraints."""

    @abstractmethod
    def near(self, matrices: Tensor) -> dict[str, Tensor]:
        """Return location parameters at doubly stochastic matrices with positive cells, ``(B, N, N)``."""

    @abstractmethod
    def posterior(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> TorchDistribution:
        """Return the law of the guide's site, of batch shape ``(B,)``.

        Args:
            parameters: those of :meth:`initial` for B items.
            mask: bool, broadcast to ``(B, N, N)``: the allowed cells, with a permutation among them.
        """

    @abstractmethod
    def prior(self, like: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        """Return the law of the model's site, in the type and on the device of ``like``."""

    def matrix(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the matrix X, ``(..., N, N)``, that a value of the site stands for."""
        return value

    def exact(self, parameters: Mapping[str, Tensor], mask: Tensor | None = None) -> PermutationDistribution | None:
        """Return the law of :meth:`permutations` where its probabilities are known, else None."""
        return None

    @torch.no_grad()
    def permutations(self, parameters: Mapping[str, Tensor], num_samples: int, mask: Tensor | None = None) -> Tensor:
        """Draw the permutations nearest to samples, ``(num_samples, B, N, N)``."""
        matrices = self.matrix(self.posterior(parameters, mask).sample(torch.Size([num_samples])), mask)
        return best_permutation(masked(matrices, mask))


def masked(matrix: Tensor, mask: Tensor | None) -> Tensor:
    """Return scores that are -inf in cells that are not allowed."""
    return matrix if mask is None else matrix.masked_fill(~mask, -math.inf)


def within(cells: Any, mask: Tensor | None) -> Any:
    """Return the joint law of all cells ``(N, N)``, of which those outside the mask do not count."""
    return (cells if mask is None else cells.mask(mask)).to_event(2)


def validation(mask: Tensor | None) -> bool | None:
    """Return whether laws check their arguments: a mask takes a matching, so whoever makes it checks it once."""
    return None if mask is None else False


def refuse_mask(mask: Tensor | None) -> None:
    """Raise a ValueError where there is a mask."""
    if mask is not None:
        raise ValueError("mask is not for stick-breaking: use rounding, gumbel_sinkhorn or matching")
