r"""Laplus: Laplace's method for positive latents, with a law on the positive axis in place of the normal one.

A law q whose logarithm has the mode and the curvature of the posterior density in each coordinate gives

.. math::  \log Z \approx f(m) - \sum_i \log q_i(m_i), \qquad f(x) = \log p(D \mid x) + \log p(x),

exact where the posterior is a product of such laws.

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

from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.importance import importance_estimate
from pyro_ext.inference.evidence.mode import Mode, curvature
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

# In units of the latent, which is 1 for lengths of branches whose prior has mean 0.1.
_BOUNDARY = 1e-6  # a mode below lies at zero
_NEAR_BOUNDARY = 1e-4
_WIDE = 0.1  # variance above which a law with its mode near zero is doubted
_PROFILE_POINTS = 10
_PROFILE_END = 0.5
_GRID = 2000  # shapes tried
_LARGEST_LOCATION = 5.0  # of a lognormal law


class LocalShape(NamedTuple):
    """The density around its mode, coordinate by coordinate, all ``(D,)``.

    Attributes:
        mode: where it is highest.
        slope: first derivatives of f.
        bend: second derivatives of f.
        shape: of the fitted Gamma laws.
        rate: of the fitted Gamma laws.
        at_boundary: where the mode lies at zero, or f is not concave.
        units: in which the latents are measured.
        height: f at the mode, ``()``.
    """

    mode: Tensor
    slope: Tensor
    bend: Tensor
    shape: Tensor
    rate: Tensor
    at_boundary: Tensor
    units: Tensor
    height: Tensor


def refuse_real_latents(problem: Problem, method: str) -> None:
    """Raise ValueError unless all latents are positive."""
    for site in problem.coordinates.sites:
        if not site.is_positive:
            raise ValueError(
                f"{method} needs positive latents, but site {site.name!r} has support {site.support}: "
                "use vbis, bridge or stepping_stone, or sample the exponential of it"
            )


def local_shape(problem: Problem, mode: Mode, units: Tensor) -> LocalShape:
    r"""Fit Gamma laws to the density around its mode.

    With bend h at the mode m, rate :math:`r = -h m` and shape :math:`a = r m + 1`. Where m lies at zero or h is not
    negative, r is the size of the slope, and a in (0.001, 1] is fitted by least squares to the profile of the density,
    relative to its height, at ten points up to half a unit. Where the law comes out wide although m is close to zero,
    the mode is kept and a fitted.

    Args:
        problem: the model, all latents positive.
        mode: where f is highest.
        units: in which latents are measured, ``(D,)``; what is close to zero depends on them.

    Raises:
        ValueError: if f is flat in a coordinate, or its derivatives are not finite.
    """
    m = mode.point
    slope, bend = curvature(problem, m)
    at_boundary = (m < _BOUNDARY * units) | (bend >= 0)
    rate = torch.where(at_boundary, slope.abs(), -bend * m)
    shape = torch.where(at_boundary, torch.ones_like(m), rate * m + 1)
    _check_rates(problem, rate)
    shape, rate = _fitted_to_profiles(problem, mode, units, shape, rate, at_boundary)
    return LocalShape(m, slope, bend, shape, rate, at_boundary, units, m.new_tensor(mode.value))


def gamma_laplus(local: LocalShape) -> EvidenceEstimate:
    """Return the approximation by Gamma laws."""
    return _estimate(local, Gamma(local.shape, local.rate).log_prob(local.mode))


def lognormal_laplus(local: LocalShape) -> EvidenceEstimate:
    r"""Return the approximation by lognormal laws, :math:`\sigma^2 = -1 / (h m^2)`, :math:`\mu = \log m + \sigma^2`.

    Gamma laws stand in at the boundary and where :math:`\mu > 5` in units of the latent.
    """
    inside = ~local.at_boundary
    variance = torch.where(inside, -1 / (local.bend * local.mode.square()), torch.ones_like(local.mode))
    location = local.mode.log() + variance
    inside = inside & (location - local.units.log() <= _LARGEST_LOCATION)
    own = LogNormal(location, variance.sqrt(), validate_args=False).log_prob(local.mode)
    return _estimate(local, torch.where(inside, own, Gamma(local.shape, local.rate).log_prob(local.mode)), ~inside)


def beta_prime_laplus(local: LocalShape) -> EvidenceEstimate:
    r"""Return the approximation by beta prime laws, :math:`a = 1 - h m^2 (m + 1)`, :math:`b = -h m (m + 1) - 1`.

    Where that leaves :math:`b \leq 0`, and at the boundary, a = 1 and b is the size of the slope less 1; where that is
    not positive either, a Gamma law stands in.
    """
    m, h = local.mode, local.bend
    a, b = 1 - h * m.square() * (m + 1), -h * m * (m + 1) - 1
    monotone = local.at_boundary | (b <= 0)
    a = torch.where(monotone, torch.ones_like(a), a)
    b = torch.where(monotone, local.slope.abs() - 1, b)
    inside = b > 0
    b = torch.where(inside, b, torch.ones_like(b))
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    own = (a - 1) * m.log() - (a + b) * m.log1p() - log_beta
    return _estimate(local, torch.where(inside, own, Gamma(local.shape, local.rate).log_prob(m)), monotone)


def gamma_laplus_is(problem: Problem, local: LocalShape, num_samples: int) -> EvidenceEstimate:
    """Return the estimate by importance sampling from the Gamma laws, which is consistent."""
    law = Gamma(local.shape, local.rate)
    x = law.sample((num_samples,))
    found = problem.at_values(problem.coordinates.unflatten(x))
    estimate = importance_estimate(found.log_likelihood + found.log_prior - law.log_prob(x).sum(-1))
    figures = {**estimate.diagnostics, "num_at_boundary": int(local.at_boundary.sum())}
    return replace(estimate, diagnostics=figures)


def _estimate(local: LocalShape, log_density: Tensor, stood_in: Tensor | None = None) -> EvidenceEstimate:
    diagnostics = {"num_at_boundary": int(local.at_boundary.sum())}
    if stood_in is not None:
        diagnostics["num_fallbacks"] = int(stood_in.sum())
    return EvidenceEstimate(float(local.height - log_density.sum()), math.nan, diagnostics)


def _check_rates(problem: Problem, rate: Tensor) -> None:
    wrong = ~(rate > 0) | rate.isinf()
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"the density has no usable curvature at its mode in latent site {problem.coordinates.name_of(index)!r} "
            f"(rate {rate[index]:g}): use vbis, bridge or stepping_stone"
        )


def _fitted_to_profiles(
    problem: Problem, mode: Mode, units: Tensor, shape: Tensor, rate: Tensor, at_boundary: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace the shapes of doubtful laws by those of least squares against the profile of the density."""
    m = mode.point
    doubtful = ~at_boundary & (m < _NEAR_BOUNDARY * units) & (shape > _WIDE * (rate * units).square())
    which = (at_boundary & (m < _PROFILE_END * units) | doubtful).nonzero().squeeze(-1)
    if not len(which):
        return shape, rate
    start = m[which, None]
    ramp = torch.linspace(0, 1, _PROFILE_POINTS, dtype=m.dtype, device=m.device)[1:]
    x = start * (_PROFILE_END * units[which, None] / start) ** ramp  # (doubtful, points), spaced by the logarithm
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
    r"""Return which value of the grid brings :math:`\exp(c \, direction + offset)` closest to a density, by row."""
    fitted = (grid[:, None, None] * direction + offset).exp()
    return grid[(fitted - density).square().sum(-1).argmin(0)]


def _profile(problem: Problem, m: Tensor, which: Tensor, x: Tensor) -> Tensor:
    """Return f at the mode with one coordinate moved, the shape of ``x``."""
    points = m.expand(*x.shape, -1).clone()
    points.scatter_(-1, which[:, None, None].expand(*x.shape, 1), x[..., None])
    found = problem.at_values(problem.coordinates.unflatten(points.flatten(0, 1)))
    return (found.log_likelihood + found.log_prior).reshape(x.shape)
