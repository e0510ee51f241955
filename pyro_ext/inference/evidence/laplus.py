r"""Laplus: Laplace's method for positive latents, with distributions of positive numbers instead of the normal one.

A distribution :math:`q_i` is fitted to each coordinate: the logarithm of its density has the mode and the curvature of
the posterior density. This gives

.. math::  \log Z \approx f(m) - \sum_i \log q_i(m_i), \qquad f(x) = \log p(D \mid x) + \log p(x),

which is exact if the posterior is a product of such distributions.

References:
    | 19 dubious ways to compute the marginal likelihood of a phylogenetic tree topology (Fourment et al., 2020)
    | https://arxiv.org/abs/1811.11804
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Gamma, LogNormal

from pyro_ext.inference.evidence.draws import EvidenceDraws
from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.importance import importance_estimate
from pyro_ext.inference.evidence.mode import Mode
from pyro_ext.inference.evidence.plausibility import (
    Plausibility,
    check_interior,
    profile_log_mass,
    shared_log_mass,
)
from pyro_ext.inference.evidence.problem import Problem

__all__ = [
    "LocalShape",
    "beta_prime_laplus",
    "gamma_laplus",
    "gamma_laplus_is",
    "local_shape",
    "lognormal_laplus",
    "refuse_real_latents",
]

# All relative to the magnitude of the latent, which is 1 for branch lengths whose prior has mean 0.1.
_BOUNDARY = 1e-6  # a mode below this counts as zero
_NEAR_BOUNDARY = 1e-4  # a mode below this counts as close to zero
_WIDE = 0.1  # if the mode is close to zero, a fit with a larger variance is replaced
_PROFILE_POINTS = 10
_PROFILE_END = 0.5
_GRID = 2000  # the number of shapes that are tried
_LARGEST_LOCATION = 5.0  # of the lognormal distribution
_STEP = {torch.float32: 1e-2, torch.float64: 1e-4}  # of finite differences, relative to x


class LocalShape(NamedTuple):
    """The posterior density around its mode, for each coordinate alone.

    Attributes:
        mode: the constrained values where f is highest, ``(D,)``.
        slope: first derivatives of f at the mode, ``(D,)``.
        curvature: second derivatives of f at the mode, ``(D,)``.
        shape: shapes of the fitted Gamma distributions, ``(D,)``.
        rate: rates of the fitted Gamma distributions, ``(D,)``.
        at_boundary: whether the mode lies at zero or f is not concave there, bool ``(D,)``.
        magnitude: the orders of magnitude of the latents, ``(D,)``.
        height: the value of f at the mode, ``()``.
        plausibility: what the density says about fits at the mode.
    """

    mode: Tensor
    slope: Tensor
    curvature: Tensor
    shape: Tensor
    rate: Tensor
    at_boundary: Tensor
    magnitude: Tensor
    height: Tensor
    plausibility: Plausibility


def refuse_real_latents(problem: Problem, method: str) -> None:
    """Raise ValueError unless all latents are positive."""
    for site in problem.coordinates.sites:
        if not site.is_positive:
            raise ValueError(
                f"{method} needs positive latents, but site {site.name!r} has support {site.support}: "
                "use vbis, bridge or stepping_stone, or sample the exponential of it"
            )


def local_shape(problem: Problem, mode: Mode, magnitude: Tensor) -> LocalShape:
    r"""Fit Gamma distributions to the density around its mode.

    With the second derivative h at the mode m, the rate is :math:`r = -h m` and the shape :math:`a = r m + 1`. If m
    lies at zero or h is not negative, r is the absolute value of the slope. The shape, in (0.001, 1], is then fitted by
    least squares to the density, relative to its height, at ten points up to half the magnitude. If m is close to zero
    but the fitted distribution is wide, its mode is kept and its shape is fitted in the same way.

    Args:
        problem: the model, with positive latents only.
        mode: the maximum of the posterior density f.
        magnitude: the orders of magnitude of the latents, ``(D,)``, which say what is close to zero.

    Raises:
        ValueError: if f is highest at an edge where it jumps or vanishes, flat in a coordinate, or its derivatives
            are not finite.
    """
    m = mode.point
    slope, hessian = _derivatives(problem, m)
    curvature = hessian.diagonal()
    check_interior(problem, mode, slope, curvature, m < _NEAR_BOUNDARY * magnitude)
    at_boundary = (m < _BOUNDARY * magnitude) | (curvature >= 0)
    rate = torch.where(at_boundary, slope.abs(), -curvature * m)
    shape = torch.where(at_boundary, torch.ones_like(m), rate * m + 1)
    _check_rates(problem, rate)
    shape, rate = _fitted_to_profiles(problem, mode, magnitude, shape, rate, at_boundary)
    width = torch.where(at_boundary, shape.rsqrt().clamp_min(1.0), (-curvature * m.square()).rsqrt())
    center = torch.where(at_boundary, shape / rate, m)
    plausibility = Plausibility(
        profile_log_mass(problem, m, mode.value, center, width),
        shared_log_mass(hessian, ~at_boundary),
        [problem.coordinates.name_of(i) for i in range(len(m))],
    )
    return LocalShape(m, slope, curvature, shape, rate, at_boundary, magnitude, m.new_tensor(mode.value), plausibility)


def gamma_laplus(local: LocalShape) -> EvidenceEstimate:
    """Return the approximation by Gamma distributions."""
    return _estimate("Gamma", local, Gamma(local.shape, local.rate).log_prob(local.mode))


def lognormal_laplus(local: LocalShape) -> EvidenceEstimate:
    r"""Return the approximation by lognormal distributions.

    .. math::  \sigma^2 = -1 / (h m^2), \qquad \mu = \log m + \sigma^2

    Gamma distributions take their place at the boundary, and where :math:`\mu` exceeds the logarithm of the magnitude
    by more than 5.
    """
    inside = ~local.at_boundary
    variance = torch.where(inside, -1 / (local.curvature * local.mode.square()), torch.ones_like(local.mode))
    location = local.mode.log() + variance
    inside = inside & (location - local.magnitude.log() <= _LARGEST_LOCATION)
    own = LogNormal(location, variance.sqrt(), validate_args=False).log_prob(local.mode)
    log_density = torch.where(inside, own, Gamma(local.shape, local.rate).log_prob(local.mode))
    return _estimate("lognormal", local, log_density, ~inside)


def beta_prime_laplus(local: LocalShape) -> EvidenceEstimate:
    r"""Return the approximation by beta prime distributions.

    .. math::  a = 1 - h m^2 (m + 1), \qquad b = -h m (m + 1) - 1

    At the boundary, and where this gives :math:`b \leq 0`, a is 1 and b is the absolute value of the slope minus 1.
    Where this b is not positive either, a Gamma distribution takes its place.
    """
    m, h = local.mode, local.curvature
    a, b = 1 - h * m.square() * (m + 1), -h * m * (m + 1) - 1
    monotone = local.at_boundary | (b <= 0)
    a = torch.where(monotone, torch.ones_like(a), a)
    b = torch.where(monotone, local.slope.abs() - 1, b)
    inside = b > 0
    b = torch.where(inside, b, torch.ones_like(b))
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    own = (a - 1) * m.log() - (a + b) * m.log1p() - log_beta
    log_density = torch.where(inside, own, Gamma(local.shape, local.rate).log_prob(m))
    return _estimate("beta prime", local, log_density, monotone)


def gamma_laplus_is(problem: Problem, local: LocalShape, num_samples: int) -> EvidenceEstimate:
    """Return the estimate by importance sampling from the Gamma distributions, which is consistent."""
    q = Gamma(local.shape, local.rate)
    x = q.sample((num_samples,))
    values = problem.coordinates.unflatten(x)
    densities = problem.at_values(values)
    log_weights = densities.log_likelihood + densities.log_prior - q.log_prob(x).sum(-1)
    estimate = importance_estimate(log_weights)
    diagnostics = {**estimate.diagnostics, "num_at_boundary": int(local.at_boundary.sum())}
    draws = EvidenceDraws.weighted_values(problem, values, densities, log_weights)
    return replace(estimate, diagnostics=diagnostics, draws=draws)


def _estimate(family: str, local: LocalShape, log_density: Tensor, replaced: Tensor | None = None) -> EvidenceEstimate:
    diagnostics = {"num_at_boundary": int(local.at_boundary.sum())}
    diagnostics.update(local.plausibility.diagnostics(family, log_density))
    if replaced is not None:
        diagnostics["num_fallbacks"] = int(replaced.sum())
    return EvidenceEstimate(float(local.height - log_density.sum()), math.nan, diagnostics)


def _derivatives(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the gradient :math:`\partial f / \partial x_i` and the Hessian of f at a constrained vector.

    The second derivatives are central differences of the gradient, so that the model need be differentiable only once.
    """
    step = _STEP.get(x.dtype, 1e-2) * x
    shift = torch.diag(step)
    points = torch.cat([x[None], x + shift, x - shift])
    _, gradient, _ = problem.differentiate_constrained(points, lambda d, *_: d.log_likelihood + d.log_prior)
    above, below = gradient[1:].chunk(2)
    return gradient[0], (above - below) / (2 * step[:, None])


def _check_rates(problem: Problem, rate: Tensor) -> None:
    wrong = ~(rate > 0) | rate.isinf()
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"the density has no usable curvature at its mode in latent site {problem.coordinates.name_of(index)!r} "
            f"(rate {rate[index]:g}): use vbis, bridge or stepping_stone"
        )


def _fitted_to_profiles(
    problem: Problem, mode: Mode, magnitude: Tensor, shape: Tensor, rate: Tensor, at_boundary: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace the shapes of doubtful fits by those of least squares against the density along each coordinate."""
    m = mode.point
    doubtful = ~at_boundary & (m < _NEAR_BOUNDARY * magnitude) & (shape > _WIDE * (rate * magnitude).square())
    which = (at_boundary & (m < _PROFILE_END * magnitude) | doubtful).nonzero().squeeze(-1)
    if not len(which):
        return shape, rate
    start = m[which, None]
    ramp = torch.linspace(0, 1, _PROFILE_POINTS, dtype=m.dtype, device=m.device)[1:]
    x = start * (_PROFILE_END * magnitude[which, None] / start) ** ramp  # (doubtful, points), spaced by the logarithm
    density = (_profile(problem, m, which, x) - mode.value).exp()
    log_ratio, distance = (x / start).log(), x - start
    below_one = torch.linspace(1e-3, 1, _GRID, dtype=m.dtype, device=m.device) - 1
    fixed_rate = _closest(below_one, log_ratio, -rate[which, None] * distance, density)
    above_one = torch.logspace(-6, 3, _GRID, dtype=m.dtype, device=m.device)
    fixed_mode = _closest(above_one, log_ratio - distance / start, torch.zeros_like(distance), density)
    shape, rate = shape.clone(), rate.clone()
    shape[which] = 1 + torch.where(at_boundary[which], fixed_rate, fixed_mode)
    rate[which] = torch.where(at_boundary[which], rate[which], fixed_mode / m[which])
    return shape, rate


def _closest(grid: Tensor, direction: Tensor, offset: Tensor, density: Tensor) -> Tensor:
    r"""Return for each row the value c of the grid with :math:`\exp(c \, direction + offset)` closest to a density."""
    fitted = (grid[:, None, None] * direction + offset).exp()
    return grid[(fitted - density).square().sum(-1).argmin(0)]


def _profile(problem: Problem, m: Tensor, which: Tensor, x: Tensor) -> Tensor:
    """Return f at the mode with one coordinate moved, the shape of ``x``."""
    points = m.expand(*x.shape, -1).clone()
    points.scatter_(-1, which[:, None, None].expand(*x.shape, 1), x[..., None])
    densities = problem.at_values(problem.coordinates.unflatten(points.flatten(0, 1)))
    return (densities.log_likelihood + densities.log_prior).reshape(x.shape)
