r"""The variational approximation, and the importance weights of draws from it or from a guide.

The approximation is a product of normal distributions of the unconstrained coordinates,
:math:`q(z) = \prod_i N(z_i; \mu_i, \sigma_i^2)`. It maximises the evidence lower bound for fixed noise. For fixed
noise the bound is a deterministic function, which a quasi-Newton method maximises to the last digit.

References:
    | Black box variational inference with a deterministic objective (Giordano et al., 2023)
    | https://arxiv.org/abs/2304.05527
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.evidence.draws import EvidenceDraws
from pyro_ext.inference.evidence.optimize import maximize
from pyro_ext.inference.evidence.prior import PriorSample
from pyro_ext.inference.evidence.problem import Problem

__all__ = [
    "MeanField",
    "NoBound",
    "WeightedDraws",
    "fit_mean_field",
    "guide_draws",
    "mean_field_draws",
    "mean_field_of_draws",
]

_FIRST_SCALE = 0.1  # where the search starts: the standard deviation of q divided by that of the prior


class MeanField(NamedTuple):
    """Independent normal distributions of the unconstrained coordinates, fitted to the posterior.

    Attributes:
        loc: means of the approximation, ``(D,)``.
        scale: standard deviations of the approximation, ``(D,)``.
        prior_loc: means of the prior, ``(D,)``.
        prior_scale: standard deviations of the prior, ``(D,)``.
        converged: whether the search converged.
    """

    loc: Tensor
    scale: Tensor
    prior_loc: Tensor
    prior_scale: Tensor
    converged: bool


class WeightedDraws(NamedTuple):
    """Independent draws with weights.

    Attributes:
        log_weights: the logarithms of the weights, whose mean is the evidence, ``(N,)``.
        draws: the draws.
    """

    log_weights: Tensor
    draws: EvidenceDraws


class NoBound(ValueError):
    """The density is zero at draws from the approximation, so that its lower bound is minus infinity."""


def fit_mean_field(problem: Problem, prior: PriorSample, num_draws: int) -> MeanField:
    r"""Maximise :math:`E_q[\log p(D, x) + \log |dx/dz|] + H[q]` for ``num_draws`` fixed draws of the noise.

    Args:
        problem: the model.
        prior: draws from the prior.
        num_draws: the number of draws of the noise.

    Raises:
        NoBound: if the likelihood is zero at draws from the prior, or where the search starts.
    """
    if prior.truncated:
        raise NoBound("the likelihood is zero over a part of the prior")
    start, prior_scale = prior.best, prior.scale.clamp_min(1e-3)
    noise = _standardised_noise(num_draws, start)

    def function(parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = parameters.chunk(2)
        scale = prior_scale * log_scale.exp()
        z = start + prior_scale * shift + scale * noise
        value, gradient, _ = problem.differentiate(z, lambda d, *_: d.log_joint)
        by_log_scale = (gradient * noise).mean(0) * scale + 1.0
        return value.mean() + log_scale.sum(), torch.cat([gradient.mean(0) * prior_scale, by_log_scale])

    first = torch.cat([torch.zeros_like(start), torch.full_like(start, math.log(_FIRST_SCALE))])
    lower = torch.cat([torch.full_like(start, -math.inf), torch.full_like(start, math.log(1e-8))])
    if not function(first)[0].isfinite():
        raise NoBound("the density is zero at draws from the first approximation")
    maximum = maximize(function, first, lower)
    shift, log_scale = maximum.point.chunk(2)
    loc, scale = start + prior_scale * shift, prior_scale * log_scale.exp()
    return MeanField(loc, scale, prior.loc, prior_scale, maximum.converged)


def mean_field_of_draws(prior: PriorSample, z: Tensor) -> MeanField:
    """Return the approximation with the moments of draws from the posterior.

    No normal distribution has a finite lower bound if the density is zero in places, but as a proposal it serves.

    Args:
        prior: draws from the prior.
        z: unconstrained draws from the posterior, ``(N, D)``.
    """
    return MeanField(z.mean(0), z.std(0).clamp_min(1e-8), prior.loc, prior.scale.clamp_min(1e-3), True)


def mean_field_draws(problem: Problem, approximation: MeanField, num_samples: int) -> WeightedDraws:
    """Return draws from the approximation, weighted by log-density of the model minus that of the approximation."""
    q = Normal(approximation.loc, approximation.scale)
    z = q.sample((num_samples,))
    densities = problem.at(z)
    log_weights = densities.log_joint - q.log_prob(z).sum(-1)
    return WeightedDraws(log_weights, EvidenceDraws.weighted(problem, z, densities, log_weights))


def guide_draws(problem: Problem, guide: ModelOrGuide, num_samples: int) -> WeightedDraws:
    """Return draws from a guide, weighted by log-density of the model minus that of the guide."""
    values, log_density = problem.guide_draws(guide, num_samples)
    densities = problem.at_values(values)
    log_weights = densities.log_likelihood + densities.log_prior - log_density
    return WeightedDraws(log_weights, EvidenceDraws.weighted_values(problem, values, densities, log_weights))


def _standardised_noise(num_draws: int, like: Tensor) -> Tensor:
    """Draw antithetic noise of unit variance, ``(num_draws, D)``, with which fits to normal posteriors are exact."""
    half = like.new_empty(num_draws // 2, len(like)).normal_()
    half = half / half.square().mean(0).sqrt()
    return torch.cat([half, -half])
