"""The settings of all methods: numbers of draws, chains and steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pyro_ext.utils.checks import number_between, optional_positive_int, positive_int

__all__ = ["EvidenceSettings"]

_MINIMA = {
    "num_importance": 20, "num_elbo": 2, "num_fit": 4, "num_posterior": 20, "num_power": 8, "num_live": 4,
    "num_chains": 1, "num_warmup": 10, "max_leapfrog": 1, "num_powers": 2, "batch_size": 1,
}  # fmt: skip


@dataclass(frozen=True)
class EvidenceSettings:
    """The settings of all methods; the defaults follow Fourment et al. (2020) where Markov chains allow it.

    Args:
        num_importance: the number of draws of the importance samplers and of naive Monte Carlo.
        num_elbo: the number of draws on which the evidence lower bound is evaluated.
        num_fit: the number of fixed draws to which the variational approximation is fitted.
        num_posterior: the number of draws from the posterior, over all chains.
        num_power: the number of draws at each power of the likelihood, over all chains.
        num_live: the number of live points of nested sampling.
        num_chains: the number of Markov chains for the posterior, and for each power of the likelihood.
        num_warmup: the number of warm-up steps of each chain, which tune the sampler and are not kept.
        target_accept: the acceptance rate to which step sizes are tuned.
        max_leapfrog: the largest number of gradients in one step of a chain.
        num_powers: the number K + 1 of powers of the likelihood, (k / K) ** (1 / 0.3) for k = 0..K; not used if
            ``powers`` is given.
        powers: the powers of the likelihood, from 0 to 1 in increasing order.
        reference_powers: the powers between reference and posterior for generalised stepping stone, from 0 to 1 in
            increasing order; ``num_powers`` evenly spaced ones if None.
        nested_steps: the number of steps of the chains that replace live points; ``20 + 5 D`` if None.
        nested_tolerance: nested sampling stops when the live points can add at most this share to the evidence.
        stabilizer: the share of imagined prior draws in the stabilised harmonic mean.
        batch_size: the largest number of particles in one run of the model; a smaller one needs less memory.
        vectorize: whether to run the model on many particles at once; None tries, and compares the results with
            single runs.

    Raises:
        ValueError: if a number is out of range.

    References:
        | 19 dubious ways to compute the marginal likelihood of a phylogenetic tree topology (Fourment et al., 2020)
        | https://arxiv.org/abs/1811.11804
    """

    num_importance: int = 10_000
    num_elbo: int = 1_000
    num_fit: int = 64
    num_posterior: int = 2_000
    num_power: int = 500
    num_live: int = 50
    num_chains: int = 8
    num_warmup: int = 150
    target_accept: float = 0.8
    max_leapfrog: int = 32
    num_powers: int = 50
    powers: Sequence[float] | None = None
    reference_powers: Sequence[float] | None = None
    nested_steps: int | None = None
    nested_tolerance: float = 1e-3
    stabilizer: float = 0.01
    batch_size: int = 512
    vectorize: bool | None = None

    def __post_init__(self) -> None:
        for name, minimum in _MINIMA.items():
            positive_int(name, getattr(self, name), minimum)
        for name in ("target_accept", "nested_tolerance", "stabilizer"):
            number_between(name, getattr(self, name), 0, 1, "()")
        optional_positive_int("nested_steps", self.nested_steps)
        for name in ("powers", "reference_powers"):
            _check_powers(name, getattr(self, name))

    def likelihood_powers(self) -> list[float]:
        """Return the powers of the likelihood, from 0 to 1.

        Example:
            >>> [round(b, 4) for b in EvidenceSettings(num_powers=4).likelihood_powers()]
            [0.0, 0.0257, 0.2588, 1.0]
        """
        last = self.num_powers - 1
        return list(self.powers) if self.powers is not None else [(k / last) ** (1 / 0.3) for k in range(last + 1)]

    def posterior_powers(self) -> list[float]:
        """Return the powers between the reference, at 0, and the posterior, at 1."""
        last = self.num_powers - 1
        if self.reference_powers is not None:
            return list(self.reference_powers)
        return [k / last for k in range(last + 1)]


def _check_powers(name: str, powers: Sequence[float] | None) -> None:
    if powers is None:
        return
    values = [float(b) for b in powers]
    rises = all(a < b for a, b in itertools.pairwise(values))
    if len(values) < 2 or values[0] != 0 or not math.isclose(values[-1], 1.0) or not rises:
        raise ValueError(f"{name} must increase from 0 to 1, got {values}")
