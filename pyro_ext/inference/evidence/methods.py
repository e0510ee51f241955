"""The nineteen methods by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pyro_ext.inference.evidence import (
    bridge,
    harmonic,
    importance,
    laplus,
    mode,
    nested,
    pointwise,
    powers,
    reference,
    variational,
)
from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.workspace import Workspace

__all__ = ["EVIDENCE_METHODS", "Method", "check_applies", "method_named"]


class Method(NamedTuple):
    """One way to the evidence.

    Attributes:
        run: estimates from what a workspace holds.
        size: the setting that ``num_samples`` sets; None where nothing is drawn.
        needs_positive: whether it applies to positive latents only.
    """

    run: Callable[[Workspace], EvidenceEstimate]
    size: str | None = None
    needs_positive: bool = False


def _laplus(approximate: Callable[[laplus.LocalShape], EvidenceEstimate]) -> Method:
    return Method(lambda w: approximate(w.local_shape()), needs_positive=True)


def _gamma_is(w: Workspace) -> EvidenceEstimate:
    return laplus.gamma_laplus_is(w.problem, w.local_shape(), w.settings.num_importance)


def _reference(w: Workspace) -> EvidenceEstimate:
    posterior = w.posterior()
    with w.bar("generalized_stepping_stone", w.power_steps()) as advance:
        return powers.stepping_stone(reference.draw_reference_path(w.problem, posterior, w.settings, advance))


def _nested(w: Workspace) -> EvidenceEstimate:
    with w.bar("nested_sampling") as advance:
        return nested.nested_sampling(w.problem, w.settings, advance)


_METHODS: dict[str, Method] = {
    "ml": Method(lambda w: mode.mode_score(w.highest_likelihood())),
    "map": Method(lambda w: mode.mode_score(w.mode())),
    "gamma_laplus": _laplus(laplus.gamma_laplus),
    "lognormal_laplus": _laplus(laplus.lognormal_laplus),
    "beta_prime_laplus": _laplus(laplus.beta_prime_laplus),
    "gamma_laplus_is": Method(_gamma_is, "num_importance", needs_positive=True),
    "elbo": Method(lambda w: variational.elbo(w.variational_weights(w.settings.num_elbo)), "num_elbo"),
    "vbis": Method(lambda w: variational.vbis(w.variational_weights(w.settings.num_importance)), "num_importance"),
    "naive_monte_carlo": Method(
        lambda w: importance.naive_monte_carlo(w.problem, w.settings.num_importance), "num_importance"
    ),
    "bridge": Method(lambda w: bridge.bridge(w.problem, w.posterior()), "num_posterior"),
    "harmonic_mean": Method(lambda w: harmonic.harmonic_mean(w.posterior()), "num_posterior"),
    "stabilized_harmonic_mean": Method(
        lambda w: harmonic.stabilized_harmonic_mean(w.posterior(), w.settings.stabilizer), "num_posterior"
    ),
    "cpo": Method(lambda w: pointwise.cpo(w.posterior(), *w.units()), "num_posterior"),
    "ppd": Method(lambda w: pointwise.ppd(w.posterior(), *w.units()), "num_posterior"),
    "stepping_stone": Method(lambda w: powers.stepping_stone(w.powers()), "num_power"),
    "path_sampling": Method(lambda w: powers.path_sampling(w.powers()), "num_power"),
    "modified_path_sampling": Method(lambda w: powers.modified_path_sampling(w.powers()), "num_power"),
    "generalized_stepping_stone": Method(_reference, "num_power"),
    "nested_sampling": Method(_nested, "num_live"),
}

EVIDENCE_METHODS: tuple[str, ...] = tuple(_METHODS)


def method_named(name: str) -> Method:
    """Return a method.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(EVIDENCE_METHODS)}; got {name!r}")
    return _METHODS[name]


def check_applies(name: str, problem: Problem) -> None:
    """Raise ValueError if a method does not apply to a model.

    Args:
        name: the method's.
        problem: the model.
    """
    if method_named(name).needs_positive:
        laplus.refuse_real_latents(problem, name)
