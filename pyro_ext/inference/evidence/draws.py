"""The draws that an estimate of evidence rests on, as values of the model's sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.evidence.problem import Densities, Problem
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["EvidenceDraws"]


class EvidenceDraws:
    """Draws from the posterior of a model, or from another distribution with weights that correct for it.

    Values of the sites are computed when they are asked for.

    Attributes:
        log_likelihood: the log-likelihood of the data at each draw, ``(chains, draws)``.
        log_prior: the log-density of the latent values under the prior, ``(chains, draws)``.
        log_weights: the logarithms of the weights, which add up to 1, ``(chains, draws)``; None for draws from the
            posterior, which have equal weights.

    Args:
        points: the latent values of the draws, ``(chains, draws, D)``.
        by_site: a function that returns the values of each site, given vectors ``(P, D)``.
        densities: log-densities at the draws, ``(chains, draws)`` each.
        log_weights: the logarithms of weights, up to a constant; None for equal weights.

    Example:
        >>> from pyro_ext.inference import estimate_evidence
        >>> def model():
        ...     x = pyro.sample("x", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(x, 1.0), obs=torch.tensor(1.0))
        >>> draws = estimate_evidence(model, method="naive_monte_carlo", seed=0).draws
        >>> draws
        EvidenceDraws(1 x 10000, weighted)
        >>> draws.mean()["x"], draws.resample(1000, seed=0)["x"].std()  # exactly: 0.5, and the root of 0.5
        (tensor(0.4997), tensor(0.7061))
    """

    def __init__(
        self,
        points: Tensor,
        by_site: Callable[[Tensor], Mapping[str, Tensor]],
        densities: Densities,
        log_weights: Tensor | None = None,
    ) -> None:
        self._points, self._by_site = points, by_site
        self._sites: dict[str, Tensor] | None = None
        self.log_likelihood, self.log_prior = densities.log_likelihood, densities.log_prior
        self.log_weights = None if log_weights is None else log_weights - log_weights.flatten().logsumexp(0)

    @classmethod
    def of_chains(cls, problem: Problem, z: Tensor, densities: Densities) -> EvidenceDraws:
        """Return draws from the posterior.

        Args:
            problem: the model.
            z: unconstrained draws, ``(draws, chains, D)``.
            densities: log-densities at the draws, ``(draws, chains)`` each.
        """
        by_chain = Densities(*(part.T for part in densities))
        return cls(z.transpose(0, 1), lambda flat: problem.coordinates.constrain(flat)[0], by_chain)

    @classmethod
    def weighted(cls, problem: Problem, z: Tensor, densities: Densities, log_weights: Tensor) -> EvidenceDraws:
        """Return weighted draws.

        Args:
            problem: the model.
            z: unconstrained draws, ``(draws, D)``.
            densities: log-densities at the draws, ``(draws,)`` each.
            log_weights: the logarithms of the weights, up to a constant, ``(draws,)``.
        """
        return cls(z[None], lambda flat: problem.coordinates.constrain(flat)[0], *_in_one_chain(densities, log_weights))

    @classmethod
    def weighted_values(
        cls, problem: Problem, values: Mapping[str, Tensor], densities: Densities, log_weights: Tensor
    ) -> EvidenceDraws:
        """Return weighted draws that are given as values of each site, ``(draws,)`` + its shape.

        Args:
            problem: the model.
            values: the values by site.
            densities: log-densities at the draws, ``(draws,)`` each.
            log_weights: the logarithms of the weights, up to a constant, ``(draws,)``.
        """
        x = problem.coordinates.flatten(values)
        return cls(x[None], problem.coordinates.unflatten, *_in_one_chain(densities, log_weights))

    @property
    def shape(self) -> tuple[int, int]:
        """The number of chains, and that of the draws of each."""
        return self._points.shape[0], self._points.shape[1]

    @property
    def sites(self) -> Mapping[str, Tensor]:
        """The values of each latent site, ``(chains, draws)`` + its shape."""
        if self._sites is None:
            with torch.no_grad():
                values = self._by_site(self._points.flatten(0, 1))
            self._sites = {name: value.unflatten(0, self.shape) for name, value in values.items()}
        return self._sites

    def mean(self) -> dict[str, Tensor]:
        """Return the posterior mean of each site, by weight."""
        if self.log_weights is None:
            return {name: value.mean((0, 1)) for name, value in self.sites.items()}
        weights = self.log_weights.exp()
        return {name: torch.tensordot(weights.to(value.dtype), value, 2) for name, value in self.sites.items()}

    def resample(self, num_draws: int, seed: int | None = None) -> dict[str, Tensor]:
        """Return draws of equal weight, by systematic resampling, as values of each site ``(num_draws,)`` + its shape.

        A draw of large weight comes several times. Draws that have equal weights are chosen at equal distances, chain
        after chain.

        Args:
            num_draws: the number of draws to return.
            seed: the seed of where the first draw lies; the global random generator if None.

        Raises:
            ValueError: if ``num_draws`` is not a positive integer.
        """
        positive_int("num_draws", num_draws)
        chosen = self._systematic(num_draws, seed)
        return {name: value.flatten(0, 1)[chosen] for name, value in self.sites.items()}

    def _systematic(self, num_draws: int, seed: int | None) -> Tensor:
        """Return the places of draws of equal weight, int64 ``(num_draws,)``."""
        if self.log_weights is None:
            probs = self._points.new_ones(self._points.shape[:2].numel(), dtype=torch.float64)
        else:
            probs = self.log_weights.flatten().double().exp()
        ends = probs.cumsum(0)
        if seed is None:
            start = torch.rand((), dtype=torch.float64)
        else:
            with isolated_random_state(seed, torch.device("cpu")):
                start = torch.rand((), dtype=torch.float64)
        places = (torch.arange(num_draws, dtype=torch.float64) + start) / num_draws
        chosen = torch.searchsorted(ends, places.to(ends.device) * ends[-1], right=True)
        return chosen.clamp_max(int(probs.nonzero()[-1]))

    def to_arviz(self, *, attrs: Mapping[str, Any] | None = None, seed: int = 0) -> Any:
        """Return the draws as ArviZ keeps them, with a group of posterior draws and one of log-densities.

        ArviZ knows no weights. Weighted draws are therefore resampled, as many as there are, in one chain: effective
        sample sizes that ArviZ computes of them count repeated draws as if they were others.

        Args:
            attrs: texts and numbers to keep with the draws.
            seed: the seed of the resampling.

        Returns:
            An ``arviz.InferenceData``; from version 1 of ArviZ on an ``xarray.DataTree``.

        Raises:
            ImportError: if ArviZ is not installed.
        """
        try:
            import arviz
        except ImportError as error:
            raise ImportError("to_arviz needs ArviZ: pip install 'pyro-ext[arviz]'") from error
        statistics = {"lp": self.log_likelihood + self.log_prior, "total_log_likelihood": self.log_likelihood}
        posterior: Mapping[str, Tensor] = self.sites
        if self.log_weights is not None:
            chosen = self._systematic(self.log_weights.numel(), seed)
            posterior, statistics = (
                {name: value.flatten(0, 1)[chosen][None] for name, value in group.items()}
                for group in (posterior, statistics)
            )
        groups: dict[str, Any] = {
            name: {site: value.detach().cpu().numpy() for site, value in group.items()}
            for name, group in (("posterior", posterior), ("sample_stats", statistics))
        }
        old = hasattr(arviz, "InferenceData")  # later versions take one dictionary of all groups
        data = arviz.from_dict(**groups) if old else arviz.from_dict(groups)
        data.attrs.update({"inference_library": "pyro_ext", **(attrs or {})})
        return data

    def __getstate__(self) -> dict[str, Any]:
        """Compute the values of the sites, so that copies need no model."""
        return {**self.__dict__, "_sites": dict(self.sites), "_by_site": None}

    def __repr__(self) -> str:
        weighted = "" if self.log_weights is None else ", weighted"
        return f"EvidenceDraws({self.shape[0]} x {self.shape[1]}{weighted})"


def _in_one_chain(densities: Densities, log_weights: Tensor) -> tuple[Densities, Tensor]:
    return Densities(*(part[None] for part in densities)), log_weights[None]
