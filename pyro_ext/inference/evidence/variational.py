r"""The variational bound, and importance sampling from the law that attains it.

The law is a product of normal ones in unconstrained coordinates, :math:`q(z) = \prod_i N(z_i; \mu_i, \sigma_i^2)`. It
is fitted to fixed noise, which makes the bound a function that a quasi-Newton search maximises to the last digit.

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
from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.importance import importance_estimate
from pyro_ext.inference.evidence.optimize import maximize
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.weights import checked_weights

__all__ = ["MeanField", "elbo", "fit_mean_field", "guide_log_weights", "log_weights", "vbis"]

_FIRST_SCALE = 0.1  # of the prior's


class MeanField(NamedTuple):
    """A fitted law, independent in unconstrained coordinates.

    Attributes:
        loc: means, ``(D,)``.
        scale: standard deviations, ``(D,)``.
        prior_loc: means of the prior, ``(D,)``.
        prior_scale: its standard deviations, ``(D,)``.
        converged: whether the search ended by itself.
    """

    loc: Tensor
    scale: Tensor
    prior_loc: Tensor
    prior_scale: Tensor
    converged: bool


def fit_mean_field(problem: Problem, num_draws: int) -> MeanField:
    r"""Maximise :math:`E_q[\log p(D, x) + \log |dx/dz|] + H[q]` on ``num_draws`` fixed draws of the noise."""
    prior_loc, prior_scale, start = problem.prior_moments()
    prior_scale = prior_scale.clamp_min(1e-3)
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
    found = maximize(function, first, lower)
    shift, log_scale = found.point.chunk(2)
    loc, scale = start + prior_scale * shift, prior_scale * log_scale.exp()
    return MeanField(loc, scale, prior_loc, prior_scale, found.converged)


def log_weights(problem: Problem, law: MeanField, num_samples: int) -> Tensor:
    """Return log-density minus log-density of the law at draws from it, ``(num_samples,)``."""
    q = Normal(law.loc, law.scale)
    z = q.sample((num_samples,))
    return problem.at(z).log_joint - q.log_prob(z).sum(-1)


def guide_log_weights(problem: Problem, guide: ModelOrGuide, num_samples: int) -> Tensor:
    """Return log-density of the model minus that of the guide at draws from the guide, ``(num_samples,)``."""
    values, log_density = problem.guide_draws(guide, num_samples)
    found = problem.at_values(values)
    return found.log_likelihood + found.log_prior - log_density


def elbo(weights: Tensor) -> EvidenceEstimate:
    """Return the mean log weight, a lower bound of the log-evidence.

    Args:
        weights: logarithms of weights of independent draws, ``(N,)``.

    Raises:
        ValueError: if one is infinite, so that the bound is.
    """
    checked_weights(weights)
    if (weights == -math.inf).any():
        raise ValueError("the bound is minus infinity: the variational law has draws of zero density; use vbis")
    spread = weights.std().item()
    return EvidenceEstimate(weights.mean().item(), spread / math.sqrt(len(weights)), {"std_log_weight": spread})


def vbis(weights: Tensor) -> EvidenceEstimate:
    """Return the log mean weight, a consistent estimate."""
    return importance_estimate(weights)


def _standardised_noise(num_draws: int, like: Tensor) -> Tensor:
    """Draw normal noise ``(num_draws, D)``, antithetic and of unit variance, so that normal posteriors are exact."""
    half = like.new_empty(num_draws // 2, len(like)).normal_()
    half = half / half.square().mean(0).sqrt()
    return torch.cat([half, -half])
