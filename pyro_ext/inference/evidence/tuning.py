"""Step sizes and metrics of Hamiltonian trajectories, tuned for many groups of chains side by side."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_ext.inference.evidence.normal_fit import shrunk_correlation

__all__ = ["DualAveraging", "Metric", "window_ends"]

_LARGEST_DIM = 200  # above, correlations are not looked at
_PRIOR_COUNT = 5
_THINNING = 2


class DualAveraging:
    """Step sizes that bring the mean acceptance of each group to a target.

    Args:
        step: first guesses, ``(G,)``.
        target: the acceptance rate.

    References:
        | The No-U-Turn Sampler (Hoffman & Gelman, 2014), section 3.2
        | https://arxiv.org/abs/1111.4246
    """

    def __init__(self, step: Tensor, target: float) -> None:
        self._target = target
        self.restart(step)

    def restart(self, step: Tensor) -> None:
        """Forget what was seen, and begin at ``step``."""
        self.step = step
        self._center = (10 * step).log()
        self._averaged = step.log()
        self._error = torch.zeros_like(step)
        self._count = 0

    def update(self, acceptance: Tensor) -> None:
        """Take the acceptance rates of one move, ``(G,)``."""
        self._count += 1
        rate = 1 / (self._count + 10)
        self._error = (1 - rate) * self._error + rate * (self._target - acceptance)
        log_step = self._center - math.sqrt(self._count) / 0.05 * self._error
        weight = self._count**-0.75
        self._averaged = weight * log_step + (1 - weight) * self._averaged
        self.step = log_step.exp()

    def averaged(self) -> Tensor:
        """Return the step sizes to keep, ``(G,)``."""
        return self._averaged.exp()


def window_ends(num_warmup: int) -> list[int]:
    """Return the steps after which scales are estimated anew, from the draws since the one before.

    The first entry only ends a stretch in which chains come down from where they started; after the last, step
    sizes settle.

    Example:
        >>> window_ends(200)
        [30, 56, 100, 170]
    """
    return [int(num_warmup * share) for share in (0.15, 0.28, 0.5, 0.85)]


class Metric:
    """A linear map for each group under which its law has about unit covariance.

    Args:
        factor: standard deviations ``(G, D)``, or lower triangular factors of covariances ``(G, D, D)``.
    """

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor

    @classmethod
    def from_draws(cls, draws: Tensor, before: Metric) -> Metric:
        """Return the metric of covariances estimated from draws, pulled towards those known before.

        Args:
            draws: ``(steps, G, chains, D)``.
            before: the metric used so far.
        """
        pooled = draws.transpose(1, 2).flatten(0, 1).transpose(0, 1)  # (G, steps * chains, D)
        count, dim = pooled.shape[1:]
        known = before.variance()
        variance = (count * pooled.var(1) + _PRIOR_COUNT * known) / (count + _PRIOR_COUNT)
        if dim == 1 or dim > _LARGEST_DIM:
            return cls(variance.sqrt())
        # Correlations take fewer draws than there are: neighbours in a chain resemble one another.
        correlation = torch.stack([shrunk_correlation(group, count / _THINNING) for group in pooled])
        factor = torch.linalg.cholesky(correlation.double()).to(variance)
        return cls(variance.sqrt().unsqueeze(-1) * factor)

    def variance(self) -> Tensor:
        """Return the variances, ``(G, D)``."""
        squared = self.factor.square()
        return squared if self.factor.dim() == 2 else squared.sum(-1)

    def rows(self, group: Tensor) -> Metric:
        """Return the metric of each row, given the group of each ``(R,)``."""
        return Metric(self.factor[group])

    def push(self, x: Tensor) -> Tensor:
        """Return ``F x`` for each row of ``x``, ``(R, D)``."""
        return self.factor * x if self.factor.dim() == 2 else (self.factor @ x.unsqueeze(-1)).squeeze(-1)

    def pull(self, x: Tensor) -> Tensor:
        """Return ``F^T x`` for each row of ``x``, ``(R, D)``."""
        return self.factor * x if self.factor.dim() == 2 else (x.unsqueeze(-2) @ self.factor).squeeze(-2)
