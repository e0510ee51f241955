"""Runs of a model on many particles at once: the log-densities of its sites, one value for each particle.

A *particle* is one joint value of all latent sites. An outermost plate holds the particles, so that one run of the
model evaluates a whole batch. A model that cannot be run on a batch is run once for each particle.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_ext.distributions.tree_likelihood import TreeLikelihood
from pyro_ext.inference._traces import Site, sample_sites
from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.evidence.dependent import Constrain, Unconstrain, same_bijection
from pyro_ext.inference.evidence.model_checks import PriorCheck, check_finite, check_sites
from pyro_ext.inference.evidence.warning import EvidenceWarning

__all__ = ["ModelRuns", "SiteDensities"]

_PLATE = "_evidence_particles"
_CHECKED = 3  # the number of particles on which a batched run is compared with single runs
_RELATIVE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-7}


class SiteDensities(NamedTuple):
    """The log-densities of a model at P particles.

    Attributes:
        log_likelihood: the sum over observed sites, ``(P,)``.
        log_prior: the sum over latent sites, ``(P,)``.
        units: the log-likelihood of each data unit, ``(P, U)``; None if not asked for.
        unit_weights: the number of occurrences of each data unit, ``(U,)``; None if not asked for.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    units: Tensor | None = None
    unit_weights: Tensor | None = None


class ModelRuns:
    """A model with its arguments, which is run at given values of its latent sites.

    Args:
        model: a Pyro model whose latent sites are continuous, with proper priors.
        args: positional arguments of the model.
        kwargs: keyword arguments of the model.
        vectorize: whether to run many particles at once; None tries, and compares the results with single runs.

    Raises:
        ValueError: if there are no latent or no observed sites, a latent site is discrete, its prior improper or
            degenerate, masked or scaled, a plate is subsampled, or the density is random or not a number.
    """

    def __init__(
        self, model: ModelOrGuide, args: tuple[Any, ...], kwargs: Mapping[str, Any], vectorize: bool | None = None
    ) -> None:
        self._model, self._args, self._kwargs = model, args, kwargs
        trace = _first_trace(model, args, kwargs)
        sites = sample_sites(trace)
        self.partial = check_sites(sites)
        with pyro.validation_enabled(False):  # infinite values are reported by check_finite
            trace.compute_log_prob()
        self.latents: dict[str, Site] = {name: site for name, site in sites.items() if not site["is_observed"]}
        self._observed = [name for name, site in sites.items() if site["is_observed"]]
        plates = [-f.dim for site in sites.values() for f in site["cond_indep_stack"] if f.vectorized]
        self._nesting = max([site["log_prob"].dim() for site in sites.values()] + plates)
        self.dependent = self._find_dependent()
        self.vectorized = self._choose(vectorize)

    def evaluate(self, values: Mapping[str, Tensor], units: bool = False) -> SiteDensities:
        """Return the log-densities at P values of each latent site, ``(P,)`` + the shape of the site.

        Args:
            values: the values of all latent sites by name.
            units: whether to return the log-likelihood of each data unit as well.
        """
        return self._batched(values, units) if self.vectorized else self._one_by_one(values, units)

    def prior_draws(self, size: int) -> dict[str, Tensor]:
        """Draw values of all latent sites from the prior, ``(size,)`` + the shape of the site."""
        return self._draw_batched(size) if self.vectorized else self._draw_one_by_one(size)

    def constrain(self, values: Mapping[str, Tensor], free: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return value and log-Jacobian of the sites whose support depends on other sites.

        Args:
            values: the values of all other latent sites, ``(P,)`` + the shape of the site.
            free: unconstrained values of the sites, ``(P,)`` + their shapes.
        """
        size = len(next(iter(free.values())))
        if self.vectorized:
            with self._plate(size):
                found = self._run_at(self._placed(values), Constrain(self._placed(free))).found
            return {name: (found[name][0].reshape(size, *self.shape(name)), found[name][1]) for name in free}
        runs = [self._run_at(_row(values, i), Constrain(_row(free, i))).found for i in range(size)]
        return {
            name: (torch.stack([run[name][0] for run in runs]), torch.stack([run[name][1] for run in runs]))
            for name in free
        }

    def unconstrain(self, values: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        """Return unconstrained values of the sites of the given names, ``(P,)`` + their shapes.

        Args:
            values: the values of all latent sites, ``(P,)`` + the shape of the site.
            names: the names of sites whose support depends on other sites.
        """
        size = len(next(iter(values.values())))
        with torch.no_grad():
            if not self.vectorized:
                found = [self._run_at(_row(values, i), Unconstrain(names)).found for i in range(size)]
                return {name: torch.stack([part[name] for part in found]) for name in names}
            with self._plate(size):
                return self._run_at(self._placed(values), Unconstrain(names)).found

    def guide_draws(self, guide: ModelOrGuide, size: int) -> tuple[dict[str, Tensor], Tensor]:
        """Draw from a guide: values of all latent sites, and the log-density of each draw, ``(size,)``.

        Raises:
            ValueError: if the guide lacks a latent site of the model.
        """
        with pyro.validation_enabled(False), torch.no_grad():
            traces = [self._guide_trace(guide, size)] if self.vectorized else None
            if traces is None:
                traces = [poutine.trace(guide).get_trace(*self._args, **self._kwargs) for _ in range(size)]
            count = size if self.vectorized else 1
            missing = [name for name in self.latents if name not in traces[0].nodes]
            if missing:
                raise ValueError(f"the guide has no site {missing[0]!r}, which is latent in the model: sample it there")
            log_densities = []
            for trace in traces:
                trace.compute_log_prob()
                terms = [self._rows(site["log_prob"], count) for site in sample_sites(trace).values()]
                log_densities.append(torch.stack([term.sum(-1) for term in terms]).sum(0))
            values = {
                name: torch.cat([self._flat_value(trace, name, count) for trace in traces]) for name in self.latents
            }
        return values, torch.cat(log_densities)

    def shape(self, name: str) -> torch.Size:
        """Return the shape of one value of a latent site."""
        return self.latents[name]["value"].shape

    def _choose(self, vectorize: bool | None) -> bool:
        """Return whether to run particles in batches."""
        with torch.no_grad():
            values = self._draw_one_by_one(_CHECKED)
            single = self._one_by_one(values, False)
            again = self._one_by_one({name: value[:1] for name, value in values.items()}, False)
            check_finite(single.log_likelihood, single.log_prior)
            self._check_repeats(single.log_likelihood[:1], again.log_likelihood)
            if vectorize is False:
                return False
            try:
                problem = self._difference(self._batched(values, False), single)
            except Exception as error:  # a model that is not written for batches may raise anything
                problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if problem is None:
            return True
        if vectorize:
            raise ValueError(
                f"the model cannot be run on a batch of particles ({problem}): "
                "let it broadcast over leading dims of its latents, or pass vectorize=False"
            )
        warnings.warn(
            f"the model is run for one particle at a time, which is slow. On a batch it failed: {problem}. "
            "Let it broadcast over leading dims of its latents, or pass vectorize=False to silence this",
            EvidenceWarning,
            stacklevel=2,
        )
        return False

    def _check_repeats(self, first: Tensor, again: Tensor) -> None:
        if not torch.allclose(first, again, rtol=1e-4):
            raise ValueError(
                f"the log-likelihood was {first.tolist()[0]:.6g}, then {again.tolist()[0]:.6g} at the same values of "
                "the latent sites: remove randomness, such as dropout, from the model"
            )

    def _difference(self, batched: SiteDensities, single: SiteDensities) -> str | None:
        for label, a, b in zip(SiteDensities._fields, batched[:2], single[:2], strict=False):
            tolerance = _RELATIVE_TOLERANCE.get(b.dtype, 1e-2)
            if not torch.allclose(a, b, rtol=tolerance, atol=tolerance):
                return f"different values of {label}: {a.tolist()} instead of {b.tolist()}"
        return None

    def _find_dependent(self) -> list[str]:
        """Return the names of the sites whose support depends on the values of other sites."""
        with pyro.validation_enabled(False), torch.no_grad():
            traces = [poutine.trace(self._model).get_trace(*self._args, **self._kwargs) for _ in range(_CHECKED)]
        return [
            name
            for name, site in self.latents.items()
            if not all(name in t.nodes and same_bijection(site, t.nodes[name]) for t in traces)
        ]

    def _run_at(self, values: Mapping[str, Tensor], messenger: Any) -> Any:
        """Run the model at values of latent sites under a messenger, and return the messenger."""
        with pyro.validation_enabled(False), messenger:
            poutine.condition(self._model, data=values)(*self._args, **self._kwargs)
        return messenger

    def _placed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._with_plate_dims(name, value) for name, value in values.items()}

    def _batched(self, values: Mapping[str, Tensor], units: bool) -> SiteDensities:
        size = len(next(iter(values.values())))
        data = self._placed(values)
        with pyro.validation_enabled(False), self._plate(size):
            trace = poutine.trace(poutine.condition(self._model, data=data)).get_trace(*self._args, **self._kwargs)
            trace.compute_log_prob()
        return self._densities(trace, size, units)

    def _one_by_one(self, values: Mapping[str, Tensor], units: bool) -> SiteDensities:
        runs = []
        with pyro.validation_enabled(False):
            for i in range(len(next(iter(values.values())))):
                trace = poutine.trace(poutine.condition(self._model, data=_row(values, i))).get_trace(
                    *self._args, **self._kwargs
                )
                trace.compute_log_prob()
                runs.append(self._densities(trace, 1, units))
        likelihood, prior = torch.cat([run.log_likelihood for run in runs]), torch.cat([run.log_prior for run in runs])
        parts = [run.units for run in runs if run.units is not None]
        return SiteDensities(likelihood, prior, torch.cat(parts) if parts else None, runs[0].unit_weights)

    def _densities(self, trace: Any, size: int, units: bool) -> SiteDensities:
        """Sum the log-densities of a trace over all dims but that of the particles."""

        def total(names: Any) -> Tensor:
            return torch.stack([self._rows(trace.nodes[name]["log_prob"], size).sum(-1) for name in names]).sum(0)

        densities = SiteDensities(total(self._observed), total(self.latents))
        if not units:
            return densities
        pairs = [_unit_log_probs(trace.nodes[name], size) for name in self._observed]
        return densities._replace(
            units=torch.cat([p[0] for p in pairs], -1), unit_weights=torch.cat([p[1] for p in pairs])
        )

    def _rows(self, log_prob: Tensor, size: int) -> Tensor:
        """Return a site's log-probabilities as ``(size, plate elements)``."""
        if size > 1 and (log_prob.dim() <= self._nesting or log_prob.shape[0] != size):
            raise ValueError(f"a site of log-density {tuple(log_prob.shape)} in a plate of {size} particles")
        return log_prob.reshape(size, -1)

    def _plate(self, size: int) -> Any:
        return pyro.plate(_PLATE, size, dim=-1 - self._nesting)

    def _with_plate_dims(self, name: str, value: Tensor) -> Tensor:
        site = self.latents[name]
        missing = self._nesting - (site["value"].dim() - site["fn"].event_dim)
        return value.reshape(value.shape[:1] + (1,) * missing + value.shape[1:])

    def _flat_value(self, trace: Any, name: str, size: int) -> Tensor:
        value = trace.nodes[name]["value"]
        shape = self.shape(name)
        return value.reshape((size, *shape)) if value.numel() == size * shape.numel() else value.expand((size, *shape))

    def _draw_batched(self, size: int) -> dict[str, Tensor]:
        with pyro.validation_enabled(False), torch.no_grad(), self._plate(size):
            trace = poutine.trace(self._model).get_trace(*self._args, **self._kwargs)
        return {name: self._flat_value(trace, name, size) for name in self.latents}

    def _draw_one_by_one(self, size: int) -> dict[str, Tensor]:
        with pyro.validation_enabled(False), torch.no_grad():
            traces = [poutine.trace(self._model).get_trace(*self._args, **self._kwargs) for _ in range(size)]
        return {name: torch.stack([trace.nodes[name]["value"] for trace in traces]) for name in self.latents}

    def _guide_trace(self, guide: ModelOrGuide, size: int) -> Any:
        with self._plate(size):
            return poutine.trace(guide).get_trace(*self._args, **self._kwargs)


def _row(values: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    return {name: value[i] for name, value in values.items()}


def _first_trace(model: ModelOrGuide, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    check = PriorCheck()
    try:
        with check, torch.no_grad():
            return poutine.trace(model).get_trace(*args, **kwargs)
    except ValueError:
        if check.problem is None:
            raise
        raise ValueError(check.problem) from None


def _unit_log_probs(site: dict[str, Any], size: int) -> tuple[Tensor, Tensor]:
    """Return the log-likelihood of each data unit, ``(size, U)``, and the number of occurrences of each, ``(U,)``.

    Data units are the elements of the batch shape of the site; an event is one unit. The units of a
    :class:`~pyro_ext.distributions.TreeLikelihood` are site patterns, and its weights are their numbers of occurrences.

    Args:
        site: an observed site with its ``log_prob`` computed, whose leftmost dim holds the particles.
        size: the number of particles.
    """
    fn, scale = site["fn"], site["scale"]
    if isinstance(fn, TreeLikelihood) and site["mask"] is None and not isinstance(scale, Tensor):
        patterns = fn.site_log_prob(site["value"])
        weights = patterns.new_ones(patterns.shape[-1]) if fn.weights is None else fn.weights
        units = patterns.reshape(size, -1)
        return units, scale * weights.repeat(units.shape[-1] // len(weights))
    units = site["log_prob"].reshape(size, -1)
    return units, units.new_ones(units.shape[-1])
