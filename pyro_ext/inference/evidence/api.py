"""The marginal likelihood of a Pyro model, by one method or by many."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.evidence.estimate import EvidenceEstimate, EvidenceWarning
from pyro_ext.inference.evidence.methods import EVIDENCE_METHODS, check_applies, method_named
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.settings import EvidenceSettings
from pyro_ext.inference.evidence.workspace import Workspace
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["EvidenceComparison", "compare_evidence", "estimate_evidence"]


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

    Observed sites, ``pyro.factor`` among them, make up the likelihood; latent sites the prior, which must be proper.
    Values are moved to unconstrained ones by :func:`torch.distributions.biject_to`. Any Pyro model will do; one that
    broadcasts over leading dims of its latents, as vectorised particles ask for, is run on many values at once.

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

    Scores rank models without estimating Z. ``std_error`` is the Monte Carlo error: by the delta method for means of
    weights, with effective sample sizes for Markov chains, by replicates of the shrinkage for nested sampling; it is
    ``nan`` for scores and for approximations at the mode, and includes no bias of ``stabilized_harmonic_mean`` or of
    the trapezoid rule in ``path_sampling``.

    Args:
        model: a Pyro model, called as ``model(*args, **kwargs)``.
        *args: its arguments.
        method: one of ``EVIDENCE_METHODS``.
        num_samples: how much to draw, as the table says.
        settings: all other sizes.
        guide: a trained Pyro guide for ``elbo`` and ``vbis``; a normal law in unconstrained coordinates if None.
        posterior: draws by site, ``(draws,)`` or ``(chains, draws)`` + the shape of the site, such as those of
            ``pyro.infer.MCMC.get_samples``; made by Hamiltonian Monte Carlo if None.
        seed: to repeat a result; the global generators are used if None.
        progress: whether to show progress bars.
        **kwargs: keyword arguments of the model.

    Raises:
        ValueError: if there is no such method, it does not apply to the model, a latent site is discrete, its prior
            improper, masked or scaled, a plate is subsampled, or a density is not a number.

    Warns:
        EvidenceWarning: if the estimate should not be relied on: few importance weights count, their variance is
            infinite, chains disagree (R-hat above 1.1), or the search for a mode does not end.

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
        >>> found = estimate_evidence(model, x, method="gamma_laplus_is", seed=0)
        >>> round(found.log_evidence, 3), found.std_error < 1e-3
        (-3.015, True)
    """
    chosen = method_named(method)
    sizes = settings or EvidenceSettings()
    if num_samples is not None:
        if chosen.size is None:
            raise ValueError(f"num_samples={num_samples} means nothing to {method}, which does not draw: leave it out")
        sizes = _resized(sizes, chosen.size, num_samples)
    workspace = _workspace(model, args, kwargs, sizes, guide=guide, posterior=posterior, seed=seed, progress=progress)
    return _estimated(workspace, method)


@dataclass(frozen=True)
class EvidenceComparison(Mapping[str, EvidenceEstimate]):
    """Estimates of one model's evidence by method.

    Args:
        estimates: method -> estimate.
        refused: method -> why there is no estimate: the method does not apply, or failed.
    """

    estimates: Mapping[str, EvidenceEstimate]
    refused: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, method: str) -> EvidenceEstimate:
        if method in self.refused:
            raise KeyError(f"there is no estimate by {method}: {self.refused[method]}")
        return self.estimates[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def to_markdown(self) -> str:
        """Return a table, one line per method.

        Example:
            >>> found = {"ml": EvidenceEstimate(-1.5, method="ml", is_score=True, seconds=0.25)}
            >>> print(EvidenceComparison(found).to_markdown())
            | method | log evidence | std. error | ESS | seconds | |
            |---|---|---|---|---|---|
            | ml | -1.5000 | - | - | 0.25 | score |
        """
        lines = ["| method | log evidence | std. error | ESS | seconds | |", "|---|---|---|---|---|---|"]
        for name, found in self.estimates.items():
            error = "-" if math.isnan(found.std_error) else f"{found.std_error:.4f}"
            ess = found.diagnostics.get("weight_ess", found.diagnostics.get("ess"))
            ess = "-" if ess is None else f"{ess:.0f}"
            note = "score" if found.is_score else "lower bound" if name == "elbo" else ""
            lines.append(f"| {name} | {found.log_evidence:.4f} | {error} | {ess} | {found.seconds:.2f} | {note} |")
        lines += [f"| {name} | - | - | - | - | {reason} |" for name, reason in self.refused.items()]
        return "\n".join(lines)


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
    """Estimate the evidence of a model by several methods that share modes, draws and fits.

    The seconds of a method are those it would take by itself. A seed gives each method the numbers that
    :func:`estimate_evidence` gives it alone. A method that fails on the way is warned about and listed in ``refused``;
    the others go on.

    Args:
        model: as in :func:`estimate_evidence`, like all that is not named here.
        *args: arguments of the model.
        methods: those to use; all that apply if None.
        settings: the sizes.
        guide: a trained guide.
        posterior: draws by site.
        seed: to repeat a result.
        progress: whether to show progress bars.
        **kwargs: keyword arguments of the model.

    Raises:
        ValueError: as :func:`estimate_evidence`, before anything is estimated; where none of the methods comes to an
            estimate; not for a method that does not apply if ``methods`` is None, which is listed in ``refused``.

    Example:
        >>> def model():
        ...     x = pyro.sample("x", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(x, 1.0), obs=torch.tensor(1.0))
        >>> found = compare_evidence(model, methods=["vbis", "elbo"], seed=0)
        >>> {name: round(estimate.log_evidence, 4) for name, estimate in found.items()}
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
    for name in names:  # before others take their time
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
            estimates[name] = _estimated(workspace, name)
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


def _estimated(workspace: Workspace, name: str) -> EvidenceEstimate:
    check_applies(name, workspace.problem)
    found, seconds = workspace.timed(name, method_named(name).run)
    if not math.isfinite(found.log_evidence):
        raise ValueError(f"{name} came to {found.log_evidence:g}: check the model for values without a likelihood")
    diagnostics = {**found.diagnostics, "vectorized": workspace.problem.vectorized}
    return replace(found, method=name, seconds=seconds, diagnostics=diagnostics)


def _resized(settings: EvidenceSettings, field_name: str, num_samples: int) -> EvidenceSettings:
    try:
        changed: dict[str, Any] = {field_name: num_samples}
        return replace(settings, **changed)
    except ValueError as error:
        raise ValueError(str(error).replace(field_name, "num_samples")) from error
