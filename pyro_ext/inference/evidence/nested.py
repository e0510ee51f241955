r"""Nested sampling: the likelihood is integrated over regions of shrinking prior mass.

In each round the lower half of the live points dies, and is replaced by as many Markov chains that run at once, within
the region of larger likelihoods.

Many points of the prior may share one likelihood: where it is zero, clamped or a step function. Live points on such a
plateau die together, and count by their share of the live points, as Fowlie, Handley & Su (2021) do. If too few points
are left above a plateau, draws from the same region join the live points before any of them dies: a plateau of 99 % of
the prior mass is then left by some tens of points, and its share is as well known as their number allows. If none of
many draws lies above the plateau, it counts as the top of the likelihood.

dynesty needs the prior as a transform of the unit cube, which a Pyro model does not give, and calls the likelihood for
one point at a time. On Pyro models with eight latents this sampler takes less than a twentieth of its processor time at
similar errors; dynesty is as fast only with a likelihood written in NumPy by hand (``benchmarks/evidence_peers.py``).

References:
    | Nested sampling for general Bayesian computation (Skilling, 2006)
    | https://doi.org/10.1214/06-BA127
    | Nested sampling with plateaus (Fowlie, Handley & Su, 2021)
    | https://arxiv.org/abs/2010.13884
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_ext.inference.evidence.draws import EvidenceDraws
from pyro_ext.inference.evidence.estimate import EvidenceEstimate
from pyro_ext.inference.evidence.normal_fit import shrunk_covariance
from pyro_ext.inference.evidence.problem import Densities, Problem
from pyro_ext.inference.evidence.settings import EvidenceSettings
from pyro_ext.inference.evidence.shells import Shells, integrate_shells
from pyro_ext.inference.evidence.warning import EvidenceWarning

__all__ = ["nested_sampling"]

_TARGET_ACCEPTANCE = 0.25
_ROUNDS = 100_000
_PRIOR_CAP = 200  # the most draws from the prior that join, as a multiple of num_live
_CHAIN_CAP = 20  # the same for draws by Markov chains
_NEGLIGIBLE = 0.01  # a single point above a plateau that adds less than this share to the evidence is left out


def nested_sampling(
    problem: Problem, settings: EvidenceSettings, advance: Callable[[int], object] | None = None
) -> EvidenceEstimate:
    """Return the estimate, with the standard deviation over simulations of the shrinkage as its standard error.

    Args:
        problem: the model.
        settings: the settings, of which ``num_live``, ``nested_steps`` and ``nested_tolerance`` are used.
        advance: called with 1 after each round.

    Raises:
        ValueError: if the likelihood is zero at all of many draws from the prior, or not a number, or if all live
            points become copies of one point.
    """
    live = _LivePoints(problem, settings)
    shells, rounds, dead = live.no_shells(), 0, []
    while rounds < _ROUNDS:
        dying = live.dying()
        if not dying:
            break
        shells = shells.join(Shells.of_round(live.likelihood, dying))
        dead.append(live.points(dying))
        log_share, log_sum = float(shells.log_shares()[-1]), float(shells.log_sum())
        live.replace(dying)
        rounds += 1
        if advance is not None:
            advance(1)
        if float(live.likelihood.max()) - log_sum + log_share < math.log(settings.nested_tolerance):
            break
    value, error, diagnostics = integrate_shells(shells, live.likelihood)
    largest = int(shells.deaths.max()) if rounds else len(live.likelihood)
    diagnostics.update(
        acceptance=live.mean_acceptance(), num_live=live.size, rounds=rounds, steps=live.steps, largest_tie=largest
    )
    draws = _weighted_draws(problem, [*dead, live.points()], shells.log_weights(live.likelihood))
    return EvidenceEstimate(value, error, diagnostics, draws=draws)


_Points = tuple[Tensor, Tensor, Tensor]


def _weighted_draws(problem: Problem, points: list[_Points], log_weights: Tensor) -> EvidenceDraws:
    """Return points and their log-densities as draws; the prior of unconstrained vectors includes the Jacobian."""
    z, likelihood, prior = (torch.cat(parts) for parts in zip(*points, strict=True))
    with torch.no_grad():
        _, log_jacobian = problem.coordinates.constrain(z)
    densities = Densities(likelihood, prior - log_jacobian, log_jacobian)
    return EvidenceDraws.weighted(problem, z, densities, log_weights.to(likelihood.dtype))


class _LivePoints:
    """Points drawn from the prior, restricted to likelihoods above a threshold that rises, in order of likelihood.

    Args:
        problem: the model.
        settings: the settings, of which ``num_live`` and ``nested_steps`` are used.
    """

    def __init__(self, problem: Problem, settings: EvidenceSettings) -> None:
        self._problem = problem
        self.size = settings.num_live
        self.steps = settings.nested_steps or 20 + 5 * problem.dim
        self._threshold: float | None = None
        self._factor = 2.38 / math.sqrt(problem.dim)
        self._rates: list[float] = []
        self.z, self.likelihood, self._prior = self._sorted(self._from_prior(self.size))

    def points(self, number: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the points of the lowest likelihoods, or all: z, log-likelihoods, and log-densities of z."""
        return self.z[:number], self.likelihood[:number], self._prior[:number]

    def no_shells(self) -> Shells:
        """Return an empty sequence of shells on the device of the points."""
        none = torch.zeros(0, dtype=torch.long, device=self.z.device)
        return Shells(none.double(), none, none)

    def mean_acceptance(self) -> float:
        """Return the mean acceptance rate; nan if no chain was needed."""
        return sum(self._rates) / len(self._rates) if self._rates else math.nan

    def dying(self) -> int:
        """Return how many points die next, those of the lowest likelihoods; 0 if all have the highest likelihood.

        Half of them die, and with them all others of the same likelihood. If this leaves too few, only those below the
        plateau die. If there are none below, draws from the same region join the points first.
        """
        needed = max(2, self.size // 2)
        while True:
            worst = self.likelihood[max(1, len(self.likelihood) // 2) - 1]
            below, tied = int((self.likelihood < worst).sum()), int((self.likelihood == worst).sum())
            left = len(self.likelihood) - below - tied
            if left >= min(needed, len(self.likelihood) // 2):
                return below + tied
            if below:
                return below
            if not self._join_more():
                return self._at_the_top(tied, left)

    def replace(self, dying: int) -> None:
        """Replace the points that die by draws from the prior, restricted to larger likelihoods.

        Args:
            dying: how many points die, those of the lowest likelihoods.

        Raises:
            ValueError: if the survivors are copies of one point.
        """
        self._threshold = float(self.likelihood[dying - 1])
        self.z, self.likelihood, self._prior = (part[dying:] for part in (self.z, self.likelihood, self._prior))
        self._refuse_copies()
        missing = self.size - len(self.z)
        if missing > 0:
            self._join(self._from_chains(missing))

    def _join_more(self) -> bool:
        """Let as many draws join as there are points; return False if there are enough of them."""
        cap = _PRIOR_CAP if self._threshold is None else _CHAIN_CAP
        count = min(len(self.z), cap * self.size - len(self.z))
        if count <= 0:
            return False
        if self._threshold is None:
            self._join(self._from_prior(count))
        else:
            self._refuse_copies()
            self._join(self._from_chains(count))
        return True

    def _at_the_top(self, tied: int, left: int) -> int:
        """Return how many points die, if few or none of many draws lie above the plateau that ``tied`` points are on.

        Raises:
            ValueError: if the likelihood is zero on the plateau, or a single draw lies far above it.
        """
        if left > 1:
            return tied
        value, rise, total = float(self.likelihood[0]), float(self.likelihood[-1] - self.likelihood[0]), tied + left
        if value == -math.inf or (left and rise - math.log(total) > math.log(_NEGLIGIBLE)):
            kind = "positive likelihood" if value == -math.inf else f"log-likelihood above {value:.6g}"
            raise ValueError(
                f"nested_sampling found {'only one' if left else 'none'} of {total} points to have a {kind}: narrow "
                f"the prior, or raise num_live (now {self.size})"
            )
        if self._threshold is None:
            warnings.warn(
                f"the log-likelihood is {value:.6g} at {tied} of {tied + left} draws from the prior: nested_sampling "
                "misses a narrow region of larger likelihood, if there is one; narrow the prior or raise num_live",
                EvidenceWarning,
                stacklevel=2,
            )
        return 0

    def _refuse_copies(self) -> None:
        if len(self.z) > 1 and not (self.z == self.z[0]).all():
            return
        raise ValueError(
            f"nested_sampling has only copies of one point left, of {self.size} that moved {self.steps} steps at a "
            "time: raise num_live and nested_steps"
        )

    def _join(self, new: tuple[Tensor, Tensor, Tensor]) -> None:
        parts = (self.z, self.likelihood, self._prior)
        self.z, self.likelihood, self._prior = self._sorted(
            tuple(torch.cat(pair) for pair in zip(parts, new, strict=True))
        )

    def _sorted(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        z, likelihood, prior = parts
        order = likelihood.argsort()
        return z[order], likelihood[order], prior[order]

    def _from_prior(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        z = self._problem.prior_points(count)
        densities = self._problem.at(z)
        if densities.log_likelihood.isnan().any():
            raise ValueError("the log-likelihood is nan at a draw from the prior: check the model and its data")
        return z, densities.log_likelihood, densities.log_prior + densities.log_jacobian

    def _from_chains(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw from the prior, restricted to likelihoods above the threshold.

        Each draw starts as a copy of one of the points. It makes Metropolis steps, scaled by the covariance of the
        points.
        """
        assert self._threshold is not None
        factor = _cholesky(shrunk_covariance(self.z)) * self._factor
        chosen = torch.randint(len(self.z), (count,), device=self.z.device)
        z, likelihood, prior = self.z[chosen], self.likelihood[chosen], self._prior[chosen]
        accepted_total = likelihood.new_zeros(())
        for _ in range(self.steps):
            proposal = z + torch.randn_like(z) @ factor.T
            densities = self._problem.at(proposal)
            new_prior = densities.log_prior + densities.log_jacobian
            accepted = torch.rand_like(prior).log() < new_prior - prior
            accepted = accepted & (densities.log_likelihood > self._threshold)
            z = torch.where(accepted[:, None], proposal, z)
            likelihood = torch.where(accepted, densities.log_likelihood, likelihood)
            prior = torch.where(accepted, new_prior, prior)
            accepted_total = accepted_total + accepted.to(prior).mean()
        rate = float(accepted_total) / self.steps
        self._rates.append(rate)
        # The scale changes between rounds only, so that the steps of one round are reversible.
        self._factor *= math.exp(rate - _TARGET_ACCEPTANCE)
        return z, likelihood, prior


def _cholesky(covariance: Tensor) -> Tensor:
    return torch.linalg.cholesky(covariance.double()).to(covariance.dtype)
