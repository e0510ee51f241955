"""The expensive parts that several methods share (modes, fits, posterior draws), each computed once and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

from torch import Tensor

from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.evidence.draws import EvidenceDraws
from pyro_ext.inference.evidence.importance import NO_BOUND
from pyro_ext.inference.evidence.laplus import LocalShape, local_shape
from pyro_ext.inference.evidence.mode import Mode, find_mode, prior_magnitude
from pyro_ext.inference.evidence.posterior import Posterior, draw_posterior, given_posterior
from pyro_ext.inference.evidence.powers import NOT_POSITIVE, PowerDraws, draw_powers
from pyro_ext.inference.evidence.prior import PriorSample, sample_prior
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.settings import EvidenceSettings
from pyro_ext.inference.evidence.variational import (
    MeanField,
    NoBound,
    WeightedDraws,
    fit_mean_field,
    guide_draws,
    mean_field_draws,
    mean_field_of_draws,
)
from pyro_ext.utils.random_state import isolated_random_state, mixed_seed

__all__ = ["Workspace"]

T = TypeVar("T")


class Workspace:
    """One model, and the parts that have been computed for it so far.

    Args:
        problem: the model.
        settings: the settings of all methods.
        guide: a trained Pyro guide for the variational methods; None for fitted normal distributions.
        posterior: posterior draws by site; None to draw them by Hamiltonian Monte Carlo.
        seed: the seed from which each part gets a random stream of its own, independent of the other parts; None for
            the global random generators.
        progress: whether to show a progress bar for each long part.
    """

    def __init__(
        self,
        problem: Problem,
        settings: EvidenceSettings,
        *,
        guide: ModelOrGuide | None = None,
        posterior: Mapping[str, Tensor] | None = None,
        seed: int | None = None,
        progress: bool = False,
    ) -> None:
        self.problem, self.settings = problem, settings
        self._guide, self._given = guide, posterior
        self._seed, self._progress = seed, progress
        self._parts: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}
        self._needs: dict[str, set[str]] = {}
        self._open: list[str] = []
        self._draws: EvidenceDraws | None = None

    def highest_likelihood(self) -> Mode:
        """Return the maximum of the likelihood."""
        return self._part("highest_likelihood", lambda: find_mode(self.problem, *self._start(), prior=False))

    def mode(self) -> Mode:
        """Return the maximum of the posterior density of the constrained values."""
        return self._part("mode", lambda: find_mode(self.problem, *self._start()))

    def local_shape(self) -> LocalShape:
        """Return the shape of the posterior around its mode."""
        return self._part("local_shape", lambda: local_shape(self.problem, self.mode(), self._start()[1]))

    def prior(self) -> PriorSample:
        """Return draws from the prior, of which some have a positive likelihood."""
        return self._part("prior", lambda: sample_prior(self.problem))

    def mean_field(self) -> MeanField:
        """Return the variational approximation; where the density is zero in places, that with its moments."""
        found = self._searched_mean_field()
        if found is not None:
            return found
        draws = self.posterior().z.flatten(0, 1)
        return self._part("mean_field_of_draws", lambda: mean_field_of_draws(self.prior(), draws))

    def variational_draws(self, num_samples: int) -> WeightedDraws:
        """Return weighted draws from the guide, or from the variational approximation."""
        if self._guide is not None:
            return guide_draws(self.problem, self._guide, num_samples)
        return mean_field_draws(self.problem, self.mean_field(), num_samples)

    def bounded_draws(self, num_samples: int) -> WeightedDraws:
        """Return weighted draws as :meth:`variational_draws` does, but refuse weights of zero from the start.

        Raises:
            ValueError: if no normal approximation has a finite lower bound, and there is no guide.
        """
        if self._guide is None and self._searched_mean_field() is None:
            raise ValueError(NO_BOUND)
        return self.variational_draws(num_samples)

    def positive_powers(self) -> PowerDraws:
        """Return draws from the power posteriors of a likelihood that is positive all over the prior.

        Raises:
            ValueError: if the likelihood is zero at draws from the prior.
        """
        if self.prior().truncated:
            raise ValueError(NOT_POSITIVE)
        return self.powers()

    def posterior(self) -> Posterior:
        """Return draws from the posterior."""
        given = self._given
        if given is not None:
            return self._part("posterior", lambda: given_posterior(self.problem, given))
        return self._part("posterior", self._draw_posterior)

    def posterior_draws(self) -> EvidenceDraws:
        """Return the draws from the posterior as values of the sites."""
        if self._draws is None:
            posterior = self.posterior()
            self._draws = EvidenceDraws.of_chains(self.problem, posterior.z, posterior.densities)
        return self._draws

    def units(self) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood of each data unit at each posterior draw, ``(N, C, U)``, and unit weights."""

        def make() -> tuple[Tensor, Tensor]:
            z = self.posterior().z
            units, weights = self.problem.units(z.flatten(0, 1))
            return units.unflatten(0, z.shape[:2]), weights

        return self._part("units", make)

    def powers(self) -> PowerDraws:
        """Return draws from the power posteriors."""
        return self._part("powers", self._draw_powers)

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Callable[[int], object] | None]:
        """Show a progress bar, if wanted, while a block runs; yield the function that advances it."""
        if not self._progress:
            yield None
            return
        from tqdm import tqdm

        with tqdm(total=total, desc=label, leave=False) as bar:
            yield bar.update

    def power_steps(self) -> int:
        """Return the number of steps of each chain of a power."""
        return self.settings.num_warmup - (-self.settings.num_power // self.settings.num_chains)

    def timed(self, name: str, run: Callable[[Workspace], T]) -> tuple[T, float]:
        """Run a method; return its result and its seconds, which include those of all parts that it uses.

        Args:
            name: the name of the method, which seeds its draws.
            run: the function to call with this workspace.
        """
        self._needs.pop(name, None)
        value = self._make(name, lambda: run(self))
        return value, sum(self._seconds[part] for part in {name, *self._closure(name)})

    def _searched_mean_field(self) -> MeanField | None:
        """Return the approximation of the highest lower bound; None if no bound is finite."""

        def make() -> MeanField | None:
            try:
                return fit_mean_field(self.problem, self.prior(), self.settings.num_fit)
            except NoBound:
                return None

        return self._part("mean_field", make)

    def _draw_posterior(self) -> Posterior:
        settings, approximation = self.settings, self._searched_mean_field()
        steps = settings.num_warmup - (-settings.num_posterior // settings.num_chains)
        with self.bar("posterior", steps) as advance:
            return draw_posterior(self.problem, self.prior(), approximation, settings, advance)

    def _draw_powers(self) -> PowerDraws:
        approximation = self.mean_field()
        with self.bar("powers", self.power_steps()) as advance:
            return draw_powers(self.problem, self.prior(), approximation, self.settings, advance)

    def _start(self) -> tuple[Tensor, Tensor]:
        """Return where searches start and the orders of magnitude of the latents, both ``(D,)``."""

        def make() -> tuple[Tensor, Tensor]:
            prior = self.prior()
            return prior.best, prior_magnitude(self.problem, prior.loc)

        return self._part("start", make)

    def _part(self, name: str, make: Callable[[], T]) -> T:
        if self._open:
            self._needs[self._open[-1]].add(name)
        if name not in self._parts:
            self._parts[name] = self._make(name, make)
        return cast(T, self._parts[name])

    def _make(self, name: str, make: Callable[[], T]) -> T:
        """Compute a part; its time does not include that of other parts computed meanwhile."""
        inner = sum(self._seconds.values())
        self._needs[name] = set()
        self._open.append(name)
        begin = time.perf_counter()
        try:
            with self._stream(name):
                value = make()
        finally:
            self._open.pop()
        elapsed = time.perf_counter() - begin
        self._seconds[name] = elapsed - (sum(self._seconds.values()) - inner)
        return value

    def _closure(self, name: str) -> set[str]:
        parts = set(self._needs[name])
        for part in self._needs[name]:
            parts |= self._closure(part)
        return parts

    def _stream(self, name: str) -> AbstractContextManager[None]:
        if self._seed is None:
            return nullcontext()
        return isolated_random_state(mixed_seed(self._seed, *name.encode()), self.problem.device)
