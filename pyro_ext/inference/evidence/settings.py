"""How much each method draws, and how."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from pyro_ext.utils.checks import positive_int

__all__ = ["EvidenceSettings"]

_FRACTIONS = ("target_accept", "stabilizer", "nested_tolerance")
_NO_COUNT = (*_FRACTIONS, "powers", "reference_powers", "vectorize", "nested_steps")


@dataclass(frozen=True)
class EvidenceSettings:
    """The sizes of all estimators; the defaults are those of Fourment et al. (2020) where Markov chains allow.

    Args:
        num_importance: draws of the importance samplers and of naive Monte Carlo.
        num_elbo: draws on which the ELBO is evaluated.
        num_fit: draws that the variational law is fitted on.
        num_posterior: draws from the posterior, over all chains.
        num_power: draws at each power of the likelihood, over all chains.
        num_live: live points of nested sampling.
        num_chains: chains of the posterior, and of each power.
        num_warmup: steps of each chain that tune the sampler and are not kept.
        target_accept: the acceptance rate that step sizes are tuned to.
        max_leapfrog: the most gradients in one step of a chain.
        num_powers: the number K + 1 of powers, (k / K) ** (1 / 0.3) for k = 0..K, where ``powers`` is None.
        powers: powers of the likelihood, from 0 to 1 in increasing order.
        reference_powers: the same between reference and posterior; evenly spaced if None.
        nested_steps: steps of the chains that replace live points; ``20 + 5 D`` if None.
        nested_tolerance: nested sampling stops when the live points can add no more than this share.
        stabilizer: the share of prior draws that the stabilised harmonic mean imagines.
        batch_size: the largest number of particles in one run of the model; less takes less memory.
        vectorize: whether to run the model on many particles at once; None tries, and checks.

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
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _FRACTIONS:
                if not 0 < value < 1:
                    raise ValueError(f"{field.name} must lie between 0 and 1, got {value}")
            elif field.name not in _NO_COUNT:
                positive_int(field.name, value, minimum=_MINIMA.get(field.name, 1))
        if self.nested_steps is not None:
            positive_int("nested_steps", self.nested_steps)
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


_MINIMA = {
    "num_importance": 20, "num_elbo": 2, "num_fit": 4, "num_posterior": 20, "num_power": 8, "num_live": 4,
    "num_warmup": 10, "num_powers": 2,
}  # fmt: skip


def _check_powers(name: str, powers: Sequence[float] | None) -> None:
    if powers is None:
        return
    values = [float(b) for b in powers]
    rises = all(a < b for a, b in itertools.pairwise(values))
    if len(values) < 2 or values[0] != 0 or not math.isclose(values[-1], 1.0) or not rises:
        raise ValueError(f"{name} must increase from 0 to 1, got {values}")
