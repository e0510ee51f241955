r"""The integral of nested sampling: likelihoods of dead points times the prior mass of the shells around them.

.. math::  Z \approx \sum_i L_i \, (X_{i-1} - X_i) + \bar L_\mathrm{live} X_\mathrm{last}, \qquad X_i = t_i X_{i-1}

A single point, the worst of n, leaves a share :math:`t \sim \mathrm{Beta}(n, 1)` of the prior mass. If m of n points
share the lowest likelihood, they lie on a plateau, and die together. The plateau has the share of the prior mass that
they are of the live points, so that :math:`t \sim \mathrm{Beta}(n - m, m)`, of mean :math:`(n - m) / n`.

References:
    | Dynamic nested sampling (Higson et al., 2019), the error by simulations of the shrinkage
    | https://arxiv.org/abs/1704.03459
    | Nested sampling with plateaus (Fowlie, Handley & Su, 2021)
    | https://arxiv.org/abs/2010.13884
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Shells", "integrate_shells"]

_REPLICATES = 400  # simulations of the shrinkage, for the standard error


class Shells(NamedTuple):
    """The shells of the prior mass that dead points stand for, from the outermost to the innermost.

    Attributes:
        likelihood: the log-likelihood of each shell, ``(M,)``; -inf where the likelihood is zero.
        counts: the number of live points before the points of the shell died, ``(M,)``.
        deaths: the number of points that died together, at equal likelihoods, ``(M,)``.
    """

    likelihood: Tensor
    counts: Tensor
    deaths: Tensor

    @classmethod
    def of_round(cls, likelihood: Tensor, dying: int) -> Shells:
        """Return the shells of the points that die in one round.

        Args:
            likelihood: the log-likelihoods of all live points in increasing order, ``(n,)``.
            dying: the number of points that die, those of the lowest likelihoods; no survivor equals one of them.

        Example:
            >>> Shells.of_round(torch.tensor([-torch.inf, -torch.inf, 1.0, 2.0, 3.0]), 3)
            Shells(likelihood=tensor([-inf, 1.], dtype=torch.float64), counts=tensor([5, 3]), deaths=tensor([2, 1]))
        """
        values, deaths = likelihood[:dying].double().unique_consecutive(return_counts=True)
        return cls(values, len(likelihood) - deaths.cumsum(0) + deaths, deaths)

    def log_weights(self, live: Tensor) -> Tensor:
        """Return the log of the part that each point has in the evidence, dead ones before live ones.

        Args:
            live: the log-likelihoods of the points that are live at the end, ``(n,)``.
        """
        log_shares, live = self.log_shares(), live.double()
        dead = self.likelihood + _log_widths(log_shares) - self.deaths.log()
        last = log_shares[-1] if len(log_shares) else live.new_zeros(())
        return torch.cat([dead.repeat_interleave(self.deaths), last - math.log(len(live)) + live])

    def join(self, other: Shells) -> Shells:
        """Return these shells, and those of another within them."""
        return Shells(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def log_shares(self) -> Tensor:
        """Return the expected log of the prior mass that is left within each shell, ``(M,)``."""
        return self._log_steps().cumsum(0)

    def log_sum(self) -> Tensor:
        """Return the log-evidence within the shells, without the live points, ``()``."""
        return (self.likelihood + _log_widths(self.log_shares())).logsumexp(0)

    def simulated_log_shares(self, size: int) -> Tensor:
        """Return draws of the logs of the prior mass that is left within each shell, ``(size, M)``."""
        counts, deaths = self.counts.double(), self.deaths.double()
        steps = -torch.empty(size, len(counts), dtype=counts.dtype, device=counts.device).exponential_() / counts
        ties = deaths > 1
        if ties.any():
            steps[:, ties] = torch.distributions.Beta((counts - deaths)[ties], deaths[ties]).sample((size,)).log()
        return steps.cumsum(-1)

    def _log_steps(self) -> Tensor:
        counts, deaths = self.counts.double(), self.deaths.double()
        return torch.where(deaths == 1, -1 / counts, torch.log1p(-deaths / counts))


def integrate_shells(shells: Shells, live: Tensor) -> tuple[float, float, dict[str, Any]]:
    """Return log-evidence, its standard error, and diagnostics, the information among them.

    Args:
        shells: the shells of the dead points.
        live: the log-likelihoods of the points that are live at the end, ``(n,)``; each has the same part of the
            remaining prior mass.

    Example:
        >>> shares = (-torch.arange(1, 251) / 50).exp()  # prior mass, with 50 live points
        >>> ones = torch.ones(250, dtype=torch.long)
        >>> live = 1 - shares[-1] * torch.linspace(0, 1, 50)
        >>> value, error, _ = integrate_shells(Shells((1 - shares).log(), 50 * ones, ones), live.log())
        >>> round(value, 1), round(error, 1)  # integrates 1 - X from 0 to 1
        (-0.7, 0.1)
    """
    values, live = shells.likelihood.double(), live.double()
    log_shares = shells.log_shares()
    estimates = _log_sum(values, torch.cat([log_shares[None], shells.simulated_log_shares(_REPLICATES)]), live)
    value = estimates[0]
    last = log_shares[-1] if len(log_shares) else live.new_zeros(())
    weights = torch.cat([_log_widths(log_shares), (last - math.log(len(live))).expand(len(live))])
    likelihood = torch.cat([values, live])
    weights = (weights + likelihood - value).exp()
    information = float((weights * torch.where(weights > 0, likelihood, 0.0)).sum() - value)
    diagnostics = {"information": information, "skilling_error": math.sqrt(max(information, 0.0) / len(live))}
    return float(value), float(estimates[1:].std()), diagnostics


def _log_sum(values: Tensor, log_shares: Tensor, live: Tensor) -> Tensor:
    """Return the log-evidence for each row of log prior masses."""
    mean = live.logsumexp(0) - math.log(len(live))
    if not len(values):
        return mean.expand(len(log_shares))
    shells = (values + _log_widths(log_shares)).logsumexp(-1)
    return torch.logaddexp(shells, mean + log_shares[:, -1])


def _log_widths(log_shares: Tensor) -> Tensor:
    """Return the logs of the prior mass of each shell, the shape of ``log_shares``."""
    before = torch.cat([log_shares.new_zeros(log_shares[..., :1].shape), log_shares[..., :-1]], -1)
    return before + torch.log(-torch.expm1((log_shares - before).clamp_max(-1e-300)))
