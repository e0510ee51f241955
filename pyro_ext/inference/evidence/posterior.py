"""Draws from the posterior: by Hamiltonian Monte Carlo, or given by the user."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.evidence.hmc import Chains, HMCSettings, run_chains
from pyro_ext.inference.evidence.prior import PriorSample, feasible_starts
from pyro_ext.inference.evidence.problem import Densities, Problem
from pyro_ext.inference.evidence.settings import EvidenceSettings
from pyro_ext.inference.evidence.variational import MeanField
from pyro_ext.inference.evidence.warning import EvidenceWarning
from pyro_ext.inference.evidence.weights import chain_ess, chain_r_hat

__all__ = ["Posterior", "draw_posterior", "draw_tempered", "given_posterior"]

_LARGEST_R_HAT = 1.1


@dataclass(frozen=True)
class Posterior:
    """Draws from the posterior: N of each of C chains.

    Args:
        z: unconstrained draws, ``(N, C, D)``.
        densities: log-densities at the draws, ``(N, C)`` each.
        diagnostics: the smallest ``ess`` and the largest ``r_hat`` of all coordinates, and ``acceptance`` and
            ``divergences`` unless the draws were given by the user.
    """

    z: Tensor
    densities: Densities
    diagnostics: dict[str, Any]


def draw_tempered(
    problem: Problem,
    start: Tensor,
    scale: Tensor,
    combine: Callable[[Densities, Tensor, Tensor], Tensor],
    settings: EvidenceSettings,
    num_draws: int,
    advance: Callable[[int], object] | None = None,
) -> Chains:
    """Draw from G distributions that are built from the densities of a model, and keep these densities as extras.

    Args:
        problem: the model.
        start: unconstrained vectors where the chains start, ``(G, C, D)``.
        scale: rough standard deviations of the distributions, ``(G, D)``.
        combine: a function of the densities at R points, the points ``(R, D)``, and the number of the distribution for
            each point ``(R,)``, that returns the log-densities ``(R,)``.
        settings: the settings of the chains.
        num_draws: the number of draws from each chain.
        advance: called with 1 after each step of all chains.
    """

    def target(z: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, densities = problem.differentiate(z, lambda d, points, rows: combine(d, points, group[rows]))
        return value, gradient, torch.stack(densities, -1)

    hmc = HMCSettings(settings.num_warmup, num_draws, settings.target_accept, settings.max_leapfrog)
    return run_chains(target, start, scale, hmc, advance)


def draw_posterior(
    problem: Problem,
    prior: PriorSample,
    approximation: MeanField | None,
    settings: EvidenceSettings,
    advance: Callable[[int], object] | None = None,
) -> Posterior:
    """Draw from the posterior by chains.

    Args:
        problem: the model.
        prior: draws from the prior.
        approximation: the variational approximation, from which the starts of the chains are drawn; None if there is
            none, and they start at draws from the prior, weighted by the likelihood.
        settings: the settings of the chains.
        advance: called with 1 after each step of all chains.
    """
    power = prior.loc.new_ones(1, settings.num_chains)
    if approximation is None:
        start, scale = prior.resample(power), prior.feasible.std(0) if len(prior.feasible) > 1 else prior.scale
    else:
        scale = approximation.scale
        start = feasible_starts(problem, prior, approximation.loc[None], scale[None], power)
    num_draws = -(-settings.num_posterior // settings.num_chains)
    chains = draw_tempered(problem, start, scale[None], lambda d, *_: d.log_joint, settings, num_draws, advance)
    z, densities = chains.z[:, 0], Densities(*chains.extras[:, 0].unbind(-1))
    diagnostics = {
        **_convergence(z, "raise num_warmup or num_posterior"),
        "acceptance": chains.acceptance.mean().item(),
        "divergences": int(chains.divergences.sum()),
    }
    return Posterior(z, densities, diagnostics)


def given_posterior(problem: Problem, samples: Mapping[str, Tensor]) -> Posterior:
    """Return draws given by the user, such as those of ``pyro.infer.MCMC.get_samples``.

    Args:
        problem: the model.
        samples: draws by the name of the site, ``(draws,)`` or ``(chains, draws)`` + the shape of the site.

    Raises:
        ValueError: if a site is missing, shapes disagree, or a draw lies outside the support.
    """
    values, chains = {}, None
    for site in problem.coordinates.sites:
        if site.name not in samples:
            raise ValueError(f"posterior lacks latent site {site.name!r}, got {sorted(samples)}")
        value = samples[site.name].detach()
        lead = value.shape[: value.dim() - len(site.shape)]
        if len(lead) not in (1, 2) or value.shape[len(lead) :] != site.shape or chains not in (None, lead):
            raise ValueError(
                f"posterior[{site.name!r}] must have shape (draws,) or (chains, draws), the same for all sites, and "
                f"{tuple(site.shape)}, got {tuple(value.shape)}"
            )
        chains, values[site.name] = lead, value.reshape(-1, *site.shape)
    assert chains is not None
    z = problem.coordinates.unconstrain(values)
    if not z.isfinite().all():
        raise ValueError("posterior has draws on the boundary of a support, or outside: leave them out")
    shape = (1, *chains) if len(chains) == 1 else tuple(chains)
    densities = Densities(*(part.reshape(shape).T for part in problem.at(z)))
    z = z.reshape(*shape, -1).transpose(0, 1)
    return Posterior(z, densities, _convergence(z, "run them for longer"))


def _convergence(z: Tensor, remedy: str) -> dict[str, Any]:
    series = z.transpose(1, 2)
    ess, r_hat = chain_ess(series).min().item(), chain_r_hat(series).max().item()
    if r_hat > _LARGEST_R_HAT:
        warnings.warn(
            f"the chains of the posterior disagree (R-hat {r_hat:.2f} > {_LARGEST_R_HAT:g}, ESS {ess:.0f}): estimates "
            f"from their draws and their errors may be wrong; {remedy}",
            EvidenceWarning,
            stacklevel=2,
        )
    return {"ess": ess, "r_hat": r_hat}
