"""Linear dynamics seen through their lag moments, which are all that their likelihood depends on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_ext.datasets.worms import lag_moments, simulate_activity
from pyro_ext.utils.checks import positive_int

__all__ = ["LinearDynamics"]


class LinearDynamics(TorchDistribution):
    r"""Activity of N neurons that follow a linear model of first order with standard Gaussian noise.

    .. math::

        \log p(y_1 \dots y_T \mid y_0) = -\tfrac12 \left[ \mathrm{tr}\, S_{11} - 2 \langle A, S_{10} \rangle
        + \langle A S_{00}, A \rangle + T N \log 2\pi \right], \qquad S_{ab} = \sum_t y_{t-1+a} y_{t-1+b}^\top.

    A value holds the moments, as :func:`~pyro_ext.datasets.worms.lag_moments` returns them, so that the cost does not
    depend on T. Its log-probability is that of any activity with these moments.

    Args:
        transition: A, ``batch_shape + (N, N)``.
        num_steps: T.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``transition`` is no batch of square matrices or ``num_steps`` no positive integer.

    Example:
        >>> d = LinearDynamics(0.5 * torch.eye(2), num_steps=100)
        >>> d.log_prob(d.sample())
        tensor(-276.0079)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"transition": constraints.independent(constraints.real, 2)}
    support: ClassVar[Any] = constraints.independent(constraints.real, 2)

    def __init__(self, transition: Tensor, num_steps: int, validate_args: bool | None = None) -> None:
        if transition.dim() < 2 or transition.shape[-1] != transition.shape[-2]:
            raise ValueError(f"transition must have shape batch_shape + (N, N), got {tuple(transition.shape)}")
        self.transition = transition
        self.num_steps = positive_int("num_steps", num_steps)
        size = 2 * transition.shape[-1]
        super().__init__(transition.shape[:-2], torch.Size([size, size]), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same law with its parameter broadcast to ``batch_shape``."""
        new = self._get_checked_instance(LinearDynamics, _instance)
        batch_shape = torch.Size(batch_shape)
        new.transition = self.transition.expand(batch_shape + self.transition.shape[-2:])
        new.num_steps = self.num_steps
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Simulate activity from a standard Gaussian start and return its moments, ``(..., 2N, 2N)``."""
        return lag_moments(simulate_activity(self.transition, self.num_steps, sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of activity with these moments, ``(..., 2N, 2N)``."""
        if self._validate_args:
            self._validate_sample(value)
        n = self.transition.shape[-1]
        cross, before = value[..., :n, n:], value[..., n:, n:]
        now = value[..., :n, :n].diagonal(dim1=-2, dim2=-1).sum(-1)
        fit = (self.transition * (self.transition @ before - 2 * cross)).sum((-2, -1))
        return -0.5 * (now + fit + self.num_steps * n * math.log(2 * math.pi))
