r"""Bridge sampling between the posterior and a normal distribution fitted to half of its draws.

.. math::  r = \frac{\frac1{n_2} \sum_j \frac{l_{2j}}{s_1 l_{2j} + s_2 r}}
    {\frac1{n_1} \sum_i \frac{1}{s_1 l_{1i} + s_2 r}}, \qquad l = \frac{p(D, z)}{q(z)},

with :math:`l_1` at posterior draws, :math:`l_2` at draws from the normal distribution q, and :math:`s_i` the shares of
effective draws.

References:
    | Simulating ratios of normalizing constants via a simple identity (Meng & Wong, 1996)
    | https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n43/j6n43.htm
    | Estimating marginal likelihoods for mixture and Markov switching models using bridge sampling techniques
      (Frühwirth-Schnatter, 2004), the standard error
    | https://doi.org/10.1111/j.1368-423X.2004.00125.x
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.normal_fit import fitted_normal
from pyro_ext.inference.evidence.posterior import Posterior
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.weights import chain_ess, check_weights

__all__ = ["bridge", "bridge_iteration"]

_TOLERANCE = 1e-10
_ITERATIONS = 1000


def bridge_iteration(posterior: Tensor, proposal: Tensor, share: float) -> tuple[Tensor, int]:
    """Iterate to the fixed point r; return its logarithm and the number of iterations.

    Args:
        posterior: the values of log l at draws from the posterior, any shape.
        proposal: the values of log l at draws from q, any shape.
        share: the share s_1 of posterior draws among all effective draws.

    Raises:
        ValueError: if the iteration does not converge.
    """
    log_s1, log_s2 = math.log(share), math.log1p(-share)
    log_r = posterior.new_tensor(math.log(posterior.numel())) - (-posterior).flatten().logsumexp(0)
    for iterations in range(1, _ITERATIONS + 1):
        top = proposal - torch.logaddexp(log_s1 + proposal, log_s2 + log_r)
        bottom = -torch.logaddexp(log_s1 + posterior, log_s2 + log_r)
        new = top.flatten().logsumexp(0) - math.log(top.numel())
        new = new - bottom.flatten().logsumexp(0) + math.log(bottom.numel())
        if (new - log_r).abs() < _TOLERANCE * (1 + new.abs()) or (
            iterations == _ITERATIONS and (new - log_r).abs() < 1e-4
        ):
            return new, iterations
        log_r = new
    raise ValueError(f"the bridge did not converge within {_ITERATIONS} iterations: draw more from the posterior")


def bridge(problem: Problem, posterior: Posterior) -> EvidenceEstimate:
    """Return the estimate from the second half of every chain and as many draws from q, fitted to the first half."""
    half = len(posterior.z) // 2
    if half < 2:
        raise ValueError(f"bridge needs at least 4 posterior draws in each chain, got {len(posterior.z)}")
    fit_ess = chain_ess(posterior.z[:half].transpose(1, 2)).median().item()
    q = fitted_normal(posterior.z[:half].flatten(0, 1), fit_ess)
    z = posterior.z[half:]
    at_posterior = posterior.densities.log_joint[half:] - q.log_prob(z)
    drawn = q.sample((at_posterior.numel(),))
    at_proposal = problem.at(drawn).log_joint - q.log_prob(drawn)
    at_proposal = at_proposal.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    check_weights(at_posterior)
    check_weights(at_proposal)
    ess = chain_ess(at_posterior).item()
    share = ess / (ess + at_proposal.numel())
    log_r, iterations = bridge_iteration(at_posterior, at_proposal, share)
    return EvidenceEstimate(
        log_r.item(),
        _std_error(at_posterior - log_r, at_proposal - log_r, share),
        {**posterior.diagnostics, "bridge_ess": ess, "iterations": iterations},
    )


def _std_error(at_posterior: Tensor, at_proposal: Tensor, share: float) -> float:
    """Return the relative standard error of r, given the values of log l - log r at both sets of draws."""
    log_s1, log_s2 = math.log(share), math.log1p(-share)
    top = (at_proposal - torch.logaddexp(log_s1 + at_proposal, at_proposal.new_tensor(log_s2))).exp()
    bottom = (-torch.logaddexp(log_s1 + at_posterior, at_posterior.new_tensor(log_s2))).exp()
    by_proposal = top.var() / top.mean().square() / top.numel()
    by_posterior = bottom.var() / bottom.mean().square() / chain_ess(bottom)
    return (by_proposal + by_posterior).sqrt().item()
