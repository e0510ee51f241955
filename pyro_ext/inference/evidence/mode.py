"""The maximum of the likelihood, and that of the posterior density."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.optimize import Maximum, climb_along_edge, is_stationary, maximize
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.warning import EvidenceWarning

__all__ = ["Mode", "find_mode", "mode_score", "prior_magnitude"]

_FLOOR = 1e-8  # the lower bound of positive latents in the search, relative to their magnitude
_LOG_MEAN = math.log(0.1) - 0.5772156649  # the mean of log x, where x is exponential with mean 0.1


class Mode(NamedTuple):
    """A maximum of f, the log-likelihood with or without the log-prior density.

    Attributes:
        point: the constrained values at the maximum, ``(number of elements,)``.
        value: the value of f at the maximum.
        search: the result of the search, in unconstrained coordinates.
    """

    point: Tensor
    value: float
    search: Maximum


def prior_magnitude(problem: Problem, prior_loc: Tensor) -> Tensor:
    """Return the order of magnitude of each positive latent, a power of ten, ``(D,)``; it is 1 for the other latents.

    A value counts as close to zero if it is small relative to the magnitude. Latents with an exponential prior of mean
    0.1, such as branch lengths, have the magnitude 1.

    Args:
        problem: the model.
        prior_loc: means of the unconstrained coordinates under the prior, ``(D,)``.
    """
    digits = ((prior_loc - _LOG_MEAN) / math.log(10)).round()
    positive = problem.coordinates.positive().to(prior_loc.device)
    tiny = torch.finfo(prior_loc.dtype).tiny
    return torch.where(positive, torch.pow(10.0, digits.double()).to(prior_loc), 1.0).clamp(tiny, 1 / tiny)


def find_mode(problem: Problem, start: Tensor, magnitude: Tensor, prior: bool = True) -> Mode:
    """Maximise f over the constrained values.

    The search runs in unconstrained coordinates, but f has no Jacobian term.

    Args:
        problem: the model.
        start: the unconstrained vector where the search starts, ``(D,)``.
        magnitude: the orders of magnitude of the latents, ``(D,)``, as :func:`prior_magnitude` returns them.
        prior: whether f includes the log-prior density.
    """

    def function(z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient, _ = problem.differentiate(z[None], lambda d, *_: d.log_likelihood + d.log_prior * prior)
        return value[0], gradient[0]

    positive = problem.coordinates.positive().to(start.device)
    bound = torch.where(positive, math.log(_FLOOR) + magnitude.log(), -math.inf)

    def heights(z: Tensor) -> Tensor:
        densities = problem.at(z)
        return densities.log_likelihood + densities.log_prior * prior

    maximum = maximize(function, torch.maximum(start, bound), bound)
    if not is_stationary(maximum.gradient_norm, maximum.value):
        maximum = climb_along_edge(heights, function, maximum, bound)
    label = "posterior density" if prior else "likelihood"
    if maximum.gradient_norm == 0.0 and (maximum.point == start).all():
        warnings.warn(
            f"the {label} is flat where the search for its maximum starts, so that the search ends there: the highest "
            "of some hundred draws from the prior",
            EvidenceWarning,
            stacklevel=2,
        )
    elif not maximum.converged:
        warnings.warn(
            f"the search for the mode stopped at a gradient of {maximum.gradient_norm:.3g}: "
            "the density may be unbounded",
            EvidenceWarning,
            stacklevel=2,
        )
    values, _ = problem.coordinates.constrain(maximum.point[None])
    return Mode(problem.coordinates.flatten(values)[0], maximum.value, maximum)


def mode_score(mode: Mode) -> EvidenceEstimate:
    """Return f at its maximum as a score, which ranks models but is no estimate of the evidence."""
    search = mode.search
    if search.at_edge:
        warnings.warn(
            f"the density jumps, bends or vanishes at the highest point found, where its gradient is "
            f"{search.gradient_norm:.3g}: a higher one may lie elsewhere along the edge",
            EvidenceWarning,
            stacklevel=2,
        )
    diagnostics = {
        "gradient_norm": search.gradient_norm, "converged": search.converged, "at_edge": search.at_edge
    }  # fmt: skip
    return EvidenceEstimate(mode.value, math.nan, diagnostics, is_score=True)
