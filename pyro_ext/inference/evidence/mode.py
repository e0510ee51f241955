"""The highest likelihood and the highest posterior density, and how the density curves there."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.inference.evidence.estimate import EvidenceEstimate, EvidenceWarning
from pyro_ext.inference.evidence.optimize import Maximum, maximize
from pyro_ext.inference.evidence.problem import Problem

__all__ = ["Mode", "curvature", "find_mode", "mode_score", "prior_units"]

_FLOOR = 1e-8  # units; positive latents are not followed any closer to zero
_LOG_MEAN = math.log(0.1) - 0.5772156649  # of the logarithm of a branch length, exponential with mean 0.1
_STEP = {torch.float32: 1e-2, torch.float64: 1e-4}


class Mode(NamedTuple):
    """A maximum of f, the log-likelihood with or without the log-prior density.

    Attributes:
        point: the constrained values, ``(number of elements,)``.
        value: f there.
        search: how the search ended.
    """

    point: Tensor
    value: float
    search: Maximum


def prior_units(problem: Problem, prior_loc: Tensor) -> Tensor:
    """Return the unit in which each positive latent is measured, a power of ten, ``(D,)``; 1 for others.

    What is close to zero depends on it. Lengths whose prior is exponential with mean 0.1 have the unit 1.

    Args:
        problem: the model.
        prior_loc: means of z under the prior, ``(D,)``.
    """
    digits = ((prior_loc - _LOG_MEAN) / math.log(10)).round()
    positive = problem.coordinates.positive().to(prior_loc.device)
    tiny = torch.finfo(prior_loc.dtype).tiny
    return torch.where(positive, torch.pow(10.0, digits.double()).to(prior_loc), 1.0).clamp(tiny, 1 / tiny)


def find_mode(problem: Problem, start: Tensor, units: Tensor, prior: bool = True) -> Mode:
    """Maximise f over the constrained values; no Jacobian enters, whatever the coordinates of the search.

    Args:
        problem: the model.
        start: where to begin, unconstrained, ``(D,)``.
        units: of positive latents, ``(D,)``.
        prior: whether f includes the log-prior density.
    """

    def function(z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient, _ = problem.differentiate(z[None], lambda d, *_: d.log_likelihood + d.log_prior * prior)
        return value[0], gradient[0]

    positive = problem.coordinates.positive().to(start.device)
    bound = torch.where(positive, math.log(_FLOOR) + units.log(), -math.inf)
    found = maximize(function, torch.maximum(start, bound), bound)
    if not found.converged:
        warnings.warn(
            f"the search for the mode stopped at a gradient of {found.gradient_norm:.3g}: the density may be unbounded",
            EvidenceWarning,
            stacklevel=2,
        )
    values, _ = problem.coordinates.constrain(found.point[None])
    return Mode(problem.coordinates.flatten(values)[0], found.value, found)


def mode_score(mode: Mode) -> EvidenceEstimate:
    """Return the height of a mode as a score: it ranks models but is no estimate of the evidence."""
    diagnostics = {"gradient_norm": mode.search.gradient_norm, "converged": mode.search.converged}
    return EvidenceEstimate(mode.value, math.nan, diagnostics, is_score=True)


def curvature(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\partial f / \partial x_i` and :math:`\partial^2 f / \partial x_i^2` at a constrained vector.

    The second derivatives are central differences of the gradient, two points for each coordinate, all in batches;
    the model need be differentiable once only.

    Args:
        problem: the model; all its latents positive.
        x: ``(D,)``.
    """
    step = _STEP.get(x.dtype, 1e-2) * x
    shift = torch.diag(step)
    points = torch.cat([x[None], x + shift, x - shift])
    _, gradient, _ = problem.differentiate_constrained(points, lambda d, *_: d.log_likelihood + d.log_prior)
    above, below = gradient[1:].chunk(2)
    return gradient[0], (above - below).diagonal() / (2 * step)
