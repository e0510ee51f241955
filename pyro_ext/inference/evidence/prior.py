"""Draws from the prior: where searches and chains start, and the share of it where the likelihood is positive."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.inference.evidence.problem import Problem

__all__ = ["PriorSample", "feasible_starts", "sample_prior"]

_DRAWS = 1000  # for the moments
_EVALUATED = 250  # if the likelihood is positive at all of these, the others are not evaluated
_ENOUGH = 50  # draws of positive likelihood
_MOST = 20_000
_RETRIES = 3


class PriorSample(NamedTuple):
    """Draws from the prior.

    Attributes:
        loc: means of the unconstrained coordinates, ``(D,)``.
        scale: standard deviations of the unconstrained coordinates, ``(D,)``.
        feasible: the unconstrained draws whose likelihood is positive, ``(F, D)``.
        likelihood: their log-likelihoods, ``(F,)``.
        num_evaluated: the number of draws whose likelihood was evaluated.
    """

    loc: Tensor
    scale: Tensor
    feasible: Tensor
    likelihood: Tensor
    num_evaluated: int

    @property
    def best(self) -> Tensor:
        """The draw of largest likelihood, ``(D,)``."""
        return self.feasible[self.likelihood.argmax()]

    @property
    def truncated(self) -> bool:
        """Whether the likelihood is zero at some of the draws."""
        return len(self.feasible) < self.num_evaluated

    def log_share(self) -> tuple[float, float]:
        """Return the log of the share of the prior where the likelihood is positive, and its standard error."""
        share = len(self.feasible) / self.num_evaluated
        return math.log(share), math.sqrt((1 - share) / (share * self.num_evaluated))

    def resample(self, power: Tensor) -> Tensor:
        """Draw feasible points, weighted by powers of the likelihood.

        Args:
            power: the power for each point, any shape.

        Returns:
            Unconstrained vectors of the shape of ``power`` + ``(D,)``.
        """
        weights = (power.reshape(-1, 1) * self.likelihood).softmax(-1)
        return self.feasible[weights.multinomial(1).reshape(power.shape)]


def sample_prior(problem: Problem) -> PriorSample:
    """Draw from the prior until enough draws have a positive likelihood.

    Raises:
        ValueError: if the likelihood is zero or not a number at all of 20,000 draws.
    """
    z = problem.prior_points(_DRAWS)
    loc, scale = z.mean(0), z.std(0)
    evaluated = z[:_EVALUATED]
    likelihood = problem.at(evaluated).log_likelihood
    if not likelihood.isfinite().all():
        likelihood, evaluated = torch.cat([likelihood, problem.at(z[_EVALUATED:]).log_likelihood]), z
    while int(likelihood.isfinite().sum()) < _ENOUGH and len(likelihood) < _MOST:
        more = problem.prior_points(min(len(likelihood), _MOST - len(likelihood)))
        likelihood = torch.cat([likelihood, problem.at(more).log_likelihood])
        evaluated = torch.cat([evaluated, more])
    good = likelihood.isfinite()
    if not good.any():
        raise ValueError(
            f"the likelihood is zero at all of {len(likelihood)} draws from the prior, so that no search or chain can "
            "start: narrow the prior, or pass draws from the posterior as posterior= to bridge or "
            "generalized_stepping_stone"
        )
    return PriorSample(loc, scale, evaluated[good], likelihood[good], len(likelihood))


def feasible_starts(problem: Problem, prior: PriorSample, loc: Tensor, scale: Tensor, power: Tensor) -> Tensor:
    """Draw points of positive density for chains to start from.

    They are normal; those where the density is zero are drawn again, and at last taken from the prior draws, weighted
    by the likelihood.

    Args:
        problem: the model.
        prior: draws from the prior.
        loc: means of the normal distributions, one for each group of chains, ``(G, D)``.
        scale: standard deviations of the normal distributions, ``(G, D)``.
        power: the power of the likelihood in the target of each chain, ``(G, C)``.

    Returns:
        Unconstrained vectors, ``(G, C, D)``.
    """
    z = loc[:, None] + scale[:, None] * torch.randn(*power.shape, loc.shape[-1], dtype=loc.dtype, device=loc.device)
    for attempt in range(_RETRIES + 1):
        wrong = ~problem.at(z.flatten(0, 1)).log_joint.isfinite().reshape(power.shape)
        if not wrong.any():
            break
        drawn = loc[:, None] + scale[:, None] * torch.randn_like(z)
        z = torch.where(wrong[..., None], drawn if attempt < _RETRIES else prior.resample(power), z)
    return z
