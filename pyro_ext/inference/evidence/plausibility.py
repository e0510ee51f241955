r"""Whether fits at a mode are plausible: the mode is interior, and the fits have the mass of the density.

The mass of the density f along coordinate i, the others at the mode, is compared with that of the fitted distribution:

.. math::  \epsilon_i = -\log q_i(m_i) - \log \int \exp(f(m_1, .., x_i, .., m_D) - f(m)) \, dx_i

For an exact fit it is zero. It is large if the curvature at the mode does not tell the width of the density. What the
coordinates have in common shows in the Hessian :math:`H`: with its correlation matrix R, independent distributions make
a normal density too low by :math:`-\frac12 \log \det R`. The sum of both is about the error of the estimate.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ext.inference.evidence.mode import Mode
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.warning import EvidenceWarning

__all__ = ["Plausibility", "check_interior", "profile_log_mass", "shared_log_mass"]

_STEEP = 0.1  # the largest slope at an interior mode, per standard deviation
_POINTS = 33
_REACH = 3.6  # the outermost points lie sinh(3.6) / sinh(1) = 16 standard deviations from the mode
_TOLERATED = 1.0  # nats
_ELSEWHERE = "use vbis, bridge, stepping_stone or nested_sampling"


class Plausibility(NamedTuple):
    """What the density says about fits at its mode.

    Attributes:
        log_mass: the log of the mass of the density along each coordinate, relative to its height at the mode,
            ``(D,)``.
        shared: the log of the factor that correlations add to the mass; nan if the Hessian is not negative definite.
        names: the name of the latent site of each coordinate.
    """

    log_mass: Tensor
    shared: float
    names: list[str]

    def diagnostics(self, family: str, log_density: Tensor) -> dict[str, Any]:
        """Return diagnostics of a fit; warn if the estimate from it seems to be off by more than a nat.

        Args:
            family: the name of the distributions that were fitted.
            log_density: their log-densities at the mode, ``(D,)``.
        """
        errors = -log_density - self.log_mass
        error = float(errors.sum()) - (0.0 if math.isnan(self.shared) else self.shared)
        worst = int(errors.abs().argmax())
        if math.isnan(self.shared):
            _warn("the posterior density is not concave at the highest point found, which is no mode")
        elif not abs(error) <= _TOLERATED:
            _warn(
                f"the {family} distributions do not fit the posterior density, and the estimate seems to be too "
                f"{'high' if error > 0 else 'low'} by {abs(error):.1f} nats: {float(errors[worst]):+.1f} from site "
                f"{self.names[worst]!r}, {-self.shared:+.1f} from correlations"
            )
        return {"profile_error": float(errors.sum()), "correlation_error": -self.shared}


def _warn(problem: str) -> None:
    warnings.warn(f"{problem}; {_ELSEWHERE}", EvidenceWarning, stacklevel=4)


def check_interior(problem: Problem, mode: Mode, slope: Tensor, curvature: Tensor, near_zero: Tensor) -> None:
    """Raise a ValueError if the mode lies at an edge of the density, so that its curvature there tells nothing.

    Args:
        problem: the model.
        mode: the maximum of the posterior density.
        slope: first derivatives of the log-density at the mode, ``(D,)``.
        curvature: second derivatives of the log-density at the mode, ``(D,)``.
        near_zero: which coordinates are as good as zero, bool ``(D,)``; they need not be stationary.
    """
    width = torch.where(curvature < 0, (-curvature).clamp_min(torch.finfo(slope.dtype).tiny).rsqrt(), mode.point)
    steep = ~near_zero & ((slope.abs() * width > _STEEP) | ~slope.isfinite())
    if mode.search.at_edge or steep.any():
        index = int(torch.where(near_zero, 0.0, slope.abs() * width).argmax())
        raise ValueError(
            f"the posterior density has its highest point at an edge, where it jumps or vanishes (slope "
            f"{slope[index]:.3g} in latent site {problem.coordinates.name_of(index)!r}), so that no distribution can "
            f"be fitted to its curvature: {_ELSEWHERE}"
        )


def profile_log_mass(problem: Problem, point: Tensor, height: float, center: Tensor, width: Tensor) -> Tensor:
    """Return the log of the mass of the density along each coordinate, relative to its height, ``(D,)``.

    It is a trapezoid rule in log x, whose points are dense around a center, and sparse far from it.

    Args:
        problem: the model, with positive latents only.
        point: the mode, ``(D,)``.
        height: the log-density at the mode.
        center: where the points are dense, ``(D,)``.
        width: standard deviations of log x there, ``(D,)``.
    """
    t = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64, device=point.device)
    u = center.double().log()[:, None] + width.double()[:, None] * t.sinh() / math.sinh(1.0)  # (D, points)
    limits = torch.finfo(point.dtype)
    u = u.clamp(math.log(limits.tiny), math.log(limits.max) / 2)
    dim = len(point)
    points = point.expand(dim, _POINTS, dim).clone()
    points.diagonal(dim1=0, dim2=2).copy_(u.T.exp().to(point))
    densities = problem.at_values(problem.coordinates.unflatten(points.flatten(0, 1)))
    log_density = (densities.log_likelihood + densities.log_prior).reshape(dim, _POINTS).double() - height
    terms = torch.where(log_density.isfinite(), log_density + u, -torch.inf).exp()
    return torch.trapezoid(terms, u, dim=-1).log().to(point)


def shared_log_mass(hessian: Tensor, free: Tensor) -> float:
    r"""Return :math:`-\frac12 \log \det R` for the correlation matrix R of a Hessian; nan if it has no real value.

    Args:
        hessian: second derivatives at the mode, ``(D, D)``.
        free: which coordinates take part, bool ``(D,)``; the diagonal is negative there.
    """
    part = -(hessian + hessian.T)[free][:, free].double() / 2
    scale = part.diagonal().rsqrt()
    factor, failed = torch.linalg.cholesky_ex(part * scale * scale[:, None])
    return math.nan if int(failed) else -float(factor.diagonal().log().sum())
