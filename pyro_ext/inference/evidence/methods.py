"""The table of the nineteen methods: how each estimates from a workspace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from pyro_ext.inference.evidence.bridge import bridge
from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.importance import elbo, importance_estimate, naive_monte_carlo
from pyro_ext.inference.evidence.laplus import (
    LocalShape,
    beta_prime_laplus,
    gamma_laplus,
    gamma_laplus_is,
    lognormal_laplus,
    refuse_real_latents,
)
from pyro_ext.inference.evidence.likelihood_means import cpo, harmonic_mean, ppd, stabilized_harmonic_mean
from pyro_ext.inference.evidence.mode import mode_score
from pyro_ext.inference.evidence.nested import nested_sampling
from pyro_ext.inference.evidence.powers import (
    draw_reference_path,
    modified_path_sampling,
    path_sampling,
    stepping_stone,
)
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.variational import WeightedDraws
from pyro_ext.inference.evidence.workspace import Workspace
from pyro_ext.utils.checks import one_of

__all__ = ["EVIDENCE_METHODS", "Method", "check_applies", "method_named"]


class Method(NamedTuple):
    """One method.

    Attributes:
        run: a function that returns the estimate, given a workspace.
        size: the name of the setting that ``num_samples`` sets; None if the method draws no samples.
        needs_positive: whether the method applies to positive latents only.
    """

    run: Callable[[Workspace], EvidenceEstimate]
    size: str | None = None
    needs_positive: bool = False


def _laplus(approximate: Callable[[LocalShape], EvidenceEstimate]) -> Method:
    return Method(lambda w: approximate(w.local_shape()), needs_positive=True)


def _by_weight(estimate: Callable[[Tensor], EvidenceEstimate], weighted: WeightedDraws) -> EvidenceEstimate:
    return replace(estimate(weighted.log_weights), draws=weighted.draws)


def _of_posterior(estimate: Callable[[Workspace], EvidenceEstimate]) -> Method:
    return Method(lambda w: replace(estimate(w), draws=w.posterior_draws()), "num_posterior")


def _gamma_laplus_is(w: Workspace) -> EvidenceEstimate:
    return gamma_laplus_is(w.problem, w.local_shape(), w.settings.num_importance)


def _generalized_stepping_stone(w: Workspace) -> EvidenceEstimate:
    posterior = w.posterior()
    with w.bar("generalized_stepping_stone", w.power_steps()) as advance:
        return stepping_stone(draw_reference_path(w.problem, posterior, w.settings, advance))


def _nested_sampling(w: Workspace) -> EvidenceEstimate:
    with w.bar("nested_sampling") as advance:
        return nested_sampling(w.problem, w.settings, advance)


_METHODS: dict[str, Method] = {
    "ml": Method(lambda w: mode_score(w.highest_likelihood())),
    "map": Method(lambda w: mode_score(w.mode())),
    "gamma_laplus": _laplus(gamma_laplus),
    "lognormal_laplus": _laplus(lognormal_laplus),
    "beta_prime_laplus": _laplus(beta_prime_laplus),
    "gamma_laplus_is": Method(_gamma_laplus_is, "num_importance", needs_positive=True),
    "elbo": Method(lambda w: _by_weight(elbo, w.bounded_draws(w.settings.num_elbo)), "num_elbo"),
    "vbis": Method(
        lambda w: _by_weight(importance_estimate, w.variational_draws(w.settings.num_importance)), "num_importance"
    ),
    "naive_monte_carlo": Method(lambda w: naive_monte_carlo(w.problem, w.settings.num_importance), "num_importance"),
    "bridge": _of_posterior(lambda w: bridge(w.problem, w.posterior())),
    "harmonic_mean": _of_posterior(lambda w: harmonic_mean(w.posterior(), w.prior())),
    "stabilized_harmonic_mean": _of_posterior(
        lambda w: stabilized_harmonic_mean(w.posterior(), w.prior(), w.settings.stabilizer)
    ),
    "cpo": _of_posterior(lambda w: cpo(w.posterior(), *w.units())),
    "ppd": _of_posterior(lambda w: ppd(w.posterior(), *w.units())),
    "stepping_stone": Method(lambda w: stepping_stone(w.powers()), "num_power"),
    "path_sampling": Method(lambda w: path_sampling(w.positive_powers()), "num_power"),
    "modified_path_sampling": Method(lambda w: modified_path_sampling(w.positive_powers()), "num_power"),
    "generalized_stepping_stone": Method(_generalized_stepping_stone, "num_power"),
    "nested_sampling": Method(_nested_sampling, "num_live"),
}

EVIDENCE_METHODS: tuple[str, ...] = tuple(_METHODS)


def method_named(name: str) -> Method:
    """Return the method of a name.

    Args:
        name: the name of the method, one of ``EVIDENCE_METHODS``.

    Raises:
        ValueError: if there is no method of that name.
    """
    return _METHODS[one_of("method", name, _METHODS)]


def check_applies(name: str, problem: Problem) -> None:
    """Raise a ValueError if a method does not apply to a model.

    Args:
        name: the name of the method.
        problem: the model.
    """
    if method_named(name).needs_positive:
        refuse_real_latents(problem, name)
