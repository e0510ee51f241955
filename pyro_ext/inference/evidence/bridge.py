r"""Bridge sampling between the posterior and a normal law fitted to half of its draws.

.. math::  r = \frac{\frac1{n_2} \sum_j \frac{l_{2j}}{s_1 l_{2j} + s_2 r}}
    {\frac1{n_1} \sum_i \frac{1}{s_1 l_{1i} + s_2 r}}, \qquad l = \frac{p(D, z)}{q(z)},

with :math:`l_1` at posterior draws, :math:`l_2` at draws from q, and :math:`s_i` the shares of effective draws.

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
from pyro_ext.inference.evidence.weights import chain_ess, checked_weights

__all__ = ["bridge", "bridge_iteration"]

_TOLERANCE = 1e-10
_ROUNDS = 1000


def bridge_iteration(posterior: Tensor, proposal: Tensor, share: float) -> tuple[Tensor, int]:
    """Iterate to the fixed point of the bridge; returns its logarithm and the number of rounds.

    Args:
        posterior: log l at draws from the posterior, any shape.
        proposal: log l at draws from q, any shape.
        share: the share s_1 of posterior draws.

    Raises:
        ValueError: if the iteration does not settle.
    """
    log_s1, log_s2 = math.log(share), math.log1p(-share)
    log_r = posterior.new_tensor(math.log(posterior.numel())) - (-posterior).flatten().logsumexp(0)
    for rounds in range(1, _ROUNDS + 1):
        top = proposal - torch.logaddexp(log_s1 + proposal, log_s2 + log_r)
        bottom = -torch.logaddexp(log_s1 + posterior, log_s2 + log_r)
        new = top.flatten().logsumexp(0) - math.log(top.numel())
        new = new - bottom.flatten().logsumexp(0) + math.log(bottom.numel())
        if (new - log_r).abs() < _TOLERANCE * (1 + new.abs()) or (rounds == _ROUNDS and (new - log_r).abs() < 1e-4):
            return new, rounds
        log_r = new
    raise ValueError(f"the bridge did not settle within {_ROUNDS} rounds: draw more from the posterior")


def bridge(problem: Problem, posterior: Posterior) -> EvidenceEstimate:
    """Return the estimate; the first half of every chain fits q, the second is bridged to as many draws from it."""
    half = len(posterior.z) // 2
    if half < 2:
        raise ValueError(f"bridge needs at least 4 posterior draws in each chain, got {len(posterior.z)}")
    fit_ess = chain_ess(posterior.z[:half].transpose(1, 2)).median().item()
    q = fitted_normal(posterior.z[:half].flatten(0, 1), fit_ess)
    z = posterior.z[half:]
    own = posterior.densities.log_joint[half:] - q.log_prob(z)
    drawn = q.sample((own.numel(),))
    other = problem.at(drawn).log_joint - q.log_prob(drawn)
    other = other.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    checked_weights(own)
    checked_weights(other)
    ess = chain_ess(own).item()
    share = ess / (ess + other.numel())
    log_r, rounds = bridge_iteration(own, other, share)
    return EvidenceEstimate(
        log_r.item(),
        _std_error(own - log_r, other - log_r, share),
        {**posterior.diagnostics, "bridge_ess": ess, "rounds": rounds},
    )


def _std_error(own: Tensor, other: Tensor, share: float) -> float:
    """Return the relative error of the ratio; arguments are log l / r."""
    log_s1, log_s2 = math.log(share), math.log1p(-share)
    at_other = (other - torch.logaddexp(log_s1 + other, other.new_tensor(log_s2))).exp()
    at_own = (-torch.logaddexp(log_s1 + own, own.new_tensor(log_s2))).exp()
    by_proposal = at_other.var() / at_other.mean().square() / at_other.numel()
    by_posterior = at_own.var() / at_own.mean().square() / chain_ess(at_own)
    return (by_proposal + by_posterior).sqrt().item()
