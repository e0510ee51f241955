"""Mean, variance and bias of gradient estimates, from repeated steps at fixed parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments", "Reference", "Step", "flat_gradient", "measure", "z_score"]

Step = Callable[[], None]
"""Clears the gradients and puts a new estimate into the parameters' ``.grad``."""


class Moments:
    """Moments of gradient vectors, updated vector by vector; at no time are more than two vectors in memory.

    Args:
        direction: a fixed vector, shape ``(P,)``; the component of each gradient along it is kept, to test for bias.
    """

    def __init__(self, direction: Tensor | None = None) -> None:
        self.mean = torch.zeros((), dtype=torch.float64)
        self._direction = direction
        self.count = 0
        self._deviations = 0.0  # Welford's sum of squares, over all components
        self._components: list[float] = []

    def add(self, gradient: Tensor) -> None:
        """Add one estimate of the gradient, shape ``(P,)``."""
        gradient = gradient.double()
        self.count += 1
        difference = gradient - self.mean
        self.mean = self.mean + difference / self.count
        self._deviations += float(difference.square().sum()) * (self.count - 1) / self.count
        if self._direction is not None:
            self._components.append(float(gradient @ self._direction))

    @property
    def variance(self) -> float:
        """The sum of the variances of all components."""
        return self._deviations / max(self.count - 1, 1)

    @property
    def log_variance(self) -> float:
        """The logarithm of :attr:`variance`; -inf if the variance is 0."""
        return math.log(self.variance) if self.variance > 0 else -math.inf

    @property
    def component(self) -> tuple[float, float]:
        """The mean component along the direction and its standard error."""
        components = torch.tensor(self._components, dtype=torch.float64)
        return float(components.mean()), float(components.std()) / math.sqrt(len(components))


@dataclass(frozen=True)
class Reference:
    """What gradient estimates are compared with.

    Attributes:
        direction: a unit vector, shape ``(P,)``, along which estimates are compared.
        component: the component of the true gradient along ``direction``.
        error: the standard error of ``component``; 0 if it is exact.
    """

    direction: Tensor
    component: float
    error: float = 0.0

    def relative_bias(self, moments: Moments) -> tuple[float, float]:
        """Return (estimated - true) / true along the direction, and the same in standard errors."""
        mean, error = moments.component
        return (mean - self.component) / self.component, z_score(mean, error, self.component, self.error)


def z_score(estimate: float, error: float, truth: float, truth_error: float = 0.0) -> float:
    """Return the distance from the truth in standard errors of at least 1e-5 of the truth, the error of float32."""
    return abs(estimate - truth) / max(math.hypot(error, truth_error), 1e-5 * abs(truth))


def flat_gradient(parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    """Return the gradients as one vector, with zeros for parameters that have no gradient."""
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def measure(
    step: Step,
    groups: Mapping[str, Sequence[torch.nn.Parameter]],
    repeats: int,
    directions: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> dict[str, Moments]:
    """Repeat a step at fixed parameters and return the moments of the gradients of each group of parameters."""
    torch.manual_seed(seed)
    moments = {name: Moments((directions or {}).get(name)) for name in groups}
    for _ in range(repeats):
        step()
        for name, parameters in groups.items():
            moments[name].add(flat_gradient(parameters))
    return moments
