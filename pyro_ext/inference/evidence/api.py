"""The marginal likelihood of a Pyro model: ``estimate_evidence`` by one method, ``compare_evidence`` by several."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.evidence.estimate import EvidenceComparison, EvidenceEstimate
from pyro_ext.inference.evidence.methods import EVIDENCE_METHODS, check_applies, method_named
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.settings import EvidenceSettings
from pyro_ext.inference.evidence.warning import EvidenceWarning
from pyro_ext.inference.evidence.workspace import Workspace
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["compare_evidence", "estimate_evidence"]


def estimate_evidence(
    model: ModelOrGuide,
    *args: Any,
    method: str = "stepping_stone",
    num_samples: int | None = None,
    settings: EvidenceSettings | None = None,
    guide: ModelOrGuide | None = None,
    posterior: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> EvidenceEstimate:
    r"""Estimate the logarithm of the marginal likelihood of a Pyro model with continuous latent sites.

    .. math::  \log Z = \log \int p(D \mid x) \, p(x) \, dx

    The likelihood is the product of all observed sites, ``pyro.factor`` included; the prior is the product of all
    latent sites, and must be proper. Latent values are mapped to unconstrained ones by
    :func:`torch.distributions.biject_to`; the support of a site may depend on other sites. Of a site with ``obs_mask``
    the missing values are latent. Any Pyro model with continuous latents can be used. A model that broadcasts
    over leading dims of its latents, as vectorised particles need it, is run on many values at once.

    ======================================== ======================================= =================================
    method                                   kind                                    ``num_samples`` (default)
    ======================================== ======================================= =================================
    ``ml``, ``map``                          scores                                  -
    ``gamma_laplus``, ``lognormal_laplus``,  approximations at the mode; positive    -
    ``beta_prime_laplus``                    latents only
    ``gamma_laplus_is``                      importance sampling; positive latents   draws (10,000)
    ``elbo``                                 lower bound                             draws (1,000)
    ``vbis``, ``naive_monte_carlo``          importance sampling                     draws (10,000)
    ``bridge``, ``harmonic_mean``,           from posterior draws                    posterior draws (2,000)
    ``stabilized_harmonic_mean``
    ``cpo``, ``ppd``                         scores from posterior draws             posterior draws (2,000)
    ``stepping_stone``, ``path_sampling``,   from power posteriors                   draws at each of 50 powers (500)
    ``modified_path_sampling``,
    ``generalized_stepping_stone``
    ``nested_sampling``                      from the prior                          live points (50)
    ======================================== ======================================= =================================

    Scores rank models without estimating Z. ``std_error`` is the Monte Carlo standard error: by the delta method for
    means of weights, with effective sample sizes for Markov chains, by replicates of the shrinkage for nested sampling.
    It is ``nan`` for scores and for approximations at the mode. It does not include the bias of
    ``stabilized_harmonic_mean``, nor that of the trapezoid rule in ``path_sampling``.

    The likelihood may be zero on a part of the prior, jump, or be constant over parts of it. ``elbo``, path sampling
    and the approximations at the mode then raise an error, unless they still apply, that names methods which do.

    Args:
        model: a Pyro model, called as ``model(*args, **kwargs)``.
        *args: positional arguments of the model.
        method: the name of the method, one of ``EVIDENCE_METHODS``.
        num_samples: the number of draws, with the meaning that the table gives for each method; by default that of
            ``settings``.
        settings: the numbers of draws, chains and steps of all methods; None for the defaults.
        guide: a trained Pyro guide for ``elbo`` and ``vbis``; if None, independent normal distributions of the
            unconstrained coordinates are fitted.
        posterior: posterior draws by site, ``(draws,)`` or ``(chains, draws)`` + the shape of the site, such as those
            of ``pyro.infer.MCMC.get_samples``; if None, they are drawn by Hamiltonian Monte Carlo.
        seed: the seed of all random draws; if None, the global random generators are used.
        progress: whether to show progress bars.
        **kwargs: keyword arguments of the model.

    Raises:
        ValueError: if there is no such method, it does not apply to the model, a latent site is discrete, its prior
            improper, masked or scaled, a plate is subsampled, or a density is not a number.

    Warns:
        EvidenceWarning: if the estimate should not be relied on: the effective number of importance weights is small,
            their variance is infinite, chains disagree (R-hat above 1.1), the search for a mode does not converge or
            ends at an edge, or an approximation at the mode seems to be off by more than a nat.

    References:
        | 19 dubious ways to compute the marginal likelihood of a phylogenetic tree topology (Fourment et al., 2020)
        | https://arxiv.org/abs/1811.11804

    Example:
        >>> def model(x):
        ...     rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Exponential(rate), obs=x)
        >>> x = torch.tensor([0.3, 1.2, 0.5, 0.8])
        >>> exact = 3 * torch.tensor(2.0).log() - torch.lgamma(torch.tensor(3.0))
        >>> exact = exact + torch.lgamma(torch.tensor(7.0)) - 7 * (2 + x.sum()).log()
        >>> exact
        tensor(-3.0148)
        >>> estimate = estimate_evidence(model, x, method="gamma_laplus_is", seed=0)
        >>> round(estimate.log_evidence, 3), estimate.std_error < 1e-3
        (-3.015, True)
    """
    chosen = method_named(method)
    sizes = settings or EvidenceSettings()
    if num_samples is not None:
        if chosen.size is None:
            raise ValueError(
                f"num_samples={num_samples} has no meaning for {method}, which draws no samples: leave it out"
            )
        sizes = _resized(sizes, chosen.size, num_samples)
    workspace = _workspace(model, args, kwargs, sizes, guide=guide, posterior=posterior, seed=seed, progress=progress)
    return _estimate(workspace, method)


def compare_evidence(
    model: ModelOrGuide,
    *args: Any,
    methods: Sequence[str] | None = None,
    settings: EvidenceSettings | None = None,
    guide: ModelOrGuide | None = None,
    posterior: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> EvidenceComparison:
    """Estimate the evidence of a model by several methods that share modes, posterior draws and variational fits.

    ``seconds`` of a method is the time that it would take alone. With a seed, each method uses the same random numbers
    as :func:`estimate_evidence` with that seed. If a method fails while it runs, there is a warning, the method is
    listed in ``refused``, and the other methods go on.

    Args:
        model: a Pyro model, called as ``model(*args, **kwargs)``.
        *args: positional arguments of the model.
        methods: the names of the methods, of ``EVIDENCE_METHODS``; None for all that apply to the model.
        settings: the numbers of draws, chains and steps of all methods; None for the defaults.
        guide: a trained Pyro guide for ``elbo`` and ``vbis``; if None, independent normal distributions of the
            unconstrained coordinates are fitted.
        posterior: posterior draws by site, ``(draws,)`` or ``(chains, draws)`` + the shape of the site; if None, they
            are drawn by Hamiltonian Monte Carlo.
        seed: the seed of all random draws; if None, the global random generators are used.
        progress: whether to show progress bars.
        **kwargs: keyword arguments of the model.

    Raises:
        ValueError: as :func:`estimate_evidence` does, before any method runs, or if no method gives an estimate. A
            method that does not apply to the model raises only if ``methods`` names it; otherwise it is listed in
            ``refused``.

    Example:
        >>> def model():
        ...     x = pyro.sample("x", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(x, 1.0), obs=torch.tensor(1.0))
        >>> comparison = compare_evidence(model, methods=["vbis", "elbo"], seed=0)
        >>> {name: round(estimate.log_evidence, 4) for name, estimate in comparison.items()}
        {'vbis': -1.5155, 'elbo': -1.5155}
    """
    names = list(EVIDENCE_METHODS if methods is None else dict.fromkeys(methods))
    if not names:
        raise ValueError("methods must name at least one method")
    for name in names:
        method_named(name)
    sizes = settings or EvidenceSettings()
    workspace = _workspace(model, args, kwargs, sizes, guide=guide, posterior=posterior, seed=seed, progress=progress)
    estimates, refused = {}, {}
    for name in names:  # before any method runs
        try:
            check_applies(name, workspace.problem)
        except ValueError as error:
            if methods is not None:
                raise
            refused[name] = str(error)
    for name in names:
        if name in refused:
            continue
        try:
            estimates[name] = _estimate(workspace, name)
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            refused[name] = str(error)
            warnings.warn(f"{name} failed: {error}", EvidenceWarning, stacklevel=2)
    if not estimates:
        raise ValueError("; ".join(dict.fromkeys(refused.values())))
    return EvidenceComparison(estimates, refused)


def _workspace(
    model: ModelOrGuide,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    settings: EvidenceSettings,
    *,
    seed: int | None,
    **options: Any,
) -> Workspace:
    with nullcontext() if seed is None else isolated_random_state(seed, torch.device("cpu")):
        problem = Problem(model, args, kwargs, vectorize=settings.vectorize, batch_size=settings.batch_size)
    return Workspace(problem, settings, seed=seed, **options)


def _estimate(workspace: Workspace, name: str) -> EvidenceEstimate:
    check_applies(name, workspace.problem)
    estimate, seconds = workspace.timed(name, method_named(name).run)
    if not math.isfinite(estimate.log_evidence):
        raise ValueError(f"{name} gave {estimate.log_evidence:g}: check the model for values of zero likelihood")
    diagnostics = {**estimate.diagnostics, "vectorized": workspace.problem.vectorized}
    return replace(estimate, method=name, seconds=seconds, diagnostics=diagnostics)


def _resized(settings: EvidenceSettings, field_name: str, num_samples: int) -> EvidenceSettings:
    try:
        changed: dict[str, Any] = {field_name: num_samples}
        return replace(settings, **changed)
    except ValueError as error:
        raise ValueError(str(error).replace(field_name, "num_samples")) from error
