"""Draws from the posterior: made by lockstep Hamiltonian Monte Carlo, or brought along."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.evidence.estimate import EvidenceWarning
from pyro_ext.inference.evidence.hmc import Chains, HMCSettings, run_chains
from pyro_ext.inference.evidence.problem import Densities, Problem
from pyro_ext.inference.evidence.settings import EvidenceSettings
from pyro_ext.inference.evidence.variational import MeanField
from pyro_ext.inference.evidence.weights import chain_ess, chain_r_hat

__all__ = ["Posterior", "draw_posterior", "given_posterior", "temper"]

_LARGEST_R_HAT = 1.1


@dataclass(frozen=True)
class Posterior:
    """Draws from the posterior, N of each of C chains.

    Args:
        z: unconstrained, ``(N, C, D)``.
        densities: log-densities there, ``(N, C)`` each.
        diagnostics: figures of the chains: the smallest ``ess`` and the largest ``r_hat`` of a coordinate,
            ``acceptance`` and ``divergences`` where they were made here.
    """

    z: Tensor
    densities: Densities
    diagnostics: dict[str, Any]


def temper(
    problem: Problem,
    start: Tensor,
    scale: Tensor,
    combine: Callable[[Densities, Tensor, Tensor], Tensor],
    settings: EvidenceSettings,
    num_draws: int,
    advance: Callable[[int], object] | None = None,
) -> Chains:
    """Run chains of G laws built from the densities of a model; the extras kept are those densities.

    Args:
        problem: the model.
        start: where chains begin, ``(G, C, D)``.
        scale: first guesses at the standard deviations, ``(G, D)``.
        combine: takes densities at R points, the points ``(R, D)`` and the group of each ``(R,)``; returns the
            log-densities of their laws, ``(R,)``.
        settings: how chains are tuned.
        num_draws: the draws of each chain.
        advance: called with 1 after each step.
    """

    def target(z: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, found = problem.differentiate(z, lambda d, points, rows: combine(d, points, group[rows]))
        return value, gradient, torch.stack(found, -1)

    hmc = HMCSettings(settings.num_warmup, num_draws, settings.target_accept, settings.max_leapfrog)
    return run_chains(target, start, scale, hmc, advance)


def draw_posterior(
    problem: Problem, law: MeanField, settings: EvidenceSettings, advance: Callable[[int], object] | None = None
) -> Posterior:
    """Draw from the posterior, by chains that begin at draws from its variational approximation."""
    chains = settings.num_chains
    start = law.loc + law.scale * torch.randn(1, chains, len(law.loc), dtype=law.loc.dtype, device=law.loc.device)
    num_draws = -(-settings.num_posterior // chains)
    found = temper(problem, start, law.scale[None], lambda d, *_: d.log_joint, settings, num_draws, advance)
    z, densities = found.z[:, 0], Densities(*found.extras[:, 0].unbind(-1))
    diagnostics = {
        **_chain_figures(z, "raise num_warmup or num_posterior"),
        "acceptance": found.acceptance.mean().item(),
        "divergences": int(found.divergences.sum()),
    }
    return Posterior(z, densities, diagnostics)


def given_posterior(problem: Problem, samples: Mapping[str, Tensor]) -> Posterior:
    """Take draws made elsewhere, such as those of ``pyro.infer.MCMC.get_samples``.

    Args:
        problem: the model.
        samples: site name -> ``(draws,)`` + the shape of the site, or ``(chains, draws)`` + that shape.

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
    return Posterior(z, densities, _chain_figures(z, "run them for longer"))


def _chain_figures(z: Tensor, remedy: str) -> dict[str, Any]:
    series = z.transpose(1, 2)
    ess, r_hat = chain_ess(series).min().item(), chain_r_hat(series).max().item()
    if r_hat > _LARGEST_R_HAT:
        warnings.warn(
            f"the chains of the posterior disagree (R-hat {r_hat:.2f} > {_LARGEST_R_HAT:g}, ESS {ess:.0f}): estimates "
            f"from their draws and the errors given may be wrong; {remedy}",
            EvidenceWarning,
            stacklevel=2,
        )
    return {"ess": ess, "r_hat": r_hat}
