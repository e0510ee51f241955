"""The parts that models of phylogenies share: the prior of branch lengths, the process of substitution."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ext.phylo.rates import ConstantRate, GammaRates, InvariantSites, SiteModel, WeibullRates
from pyro_ext.phylo.substitution import GTR, HKY85, JC69, K80, SubstitutionModel
from pyro_ext.utils.checks import number_between, one_of, positive_int

__all__ = [
    "FREQUENCIES",
    "RATES",
    "SUBSTITUTION_MODELS",
    "Process",
    "branch_length_prior",
    "check_branch_rate",
]

# Mean branch lengths from a billionth to a million substitutions per site: beyond them floating point loses all digits.
_BRANCH_RATES = (1e-6, 1e9)

# The values a process can be made of.
_PROPORTIONS = (1e-12, 1.0)  # the exponential of a rate matrix loses as many digits as the rarest state has zeros
_RATIOS = (1e-12, 1e12)
_SHAPES = (1e-6, 1e3)
_SHARES = (0.0, 1 - 1e-6)

SUBSTITUTION_MODELS = ("JC69", "K80", "HKY85", "GTR")
FREQUENCIES = ("equal", "empirical", "estimated")
RATES = ("constant", "gamma", "weibull")


def check_branch_rate(branch_rate: float) -> float:
    """Return the rate of the prior of branch lengths if it is a number from 1e-6 to 1e9.

    Raises:
        ValueError: if it is not.

    >>> check_branch_rate(10)
    10.0
    """
    return number_between("branch_rate", branch_rate, *_BRANCH_RATES)


def branch_length_prior(branch_rate: float, num_edges: int, like: Tensor) -> TorchDistribution:
    """Return independent exponential distributions of branch lengths, event shape ``(num_edges,)``.

    Args:
        branch_rate: the rate of each; branches have ``1 / branch_rate`` substitutions per site on average.
        num_edges: the number of edges of the tree.
        like: a tensor whose type and device the lengths have.

    Example:
        >>> branch_length_prior(10.0, num_edges=5, like=torch.zeros(())).mean
        tensor([0.1000, 0.1000, 0.1000, 0.1000, 0.1000])
    """
    return dist.Exponential(like.new_tensor(branch_rate)).expand([num_edges]).to_event(1)


@dataclass(frozen=True)
class Process:
    """How nucleotides are substituted, as a part of a Pyro program.

    The unknowns are sampled from these priors: ``kappa`` (K80, HKY85) from a log-normal distribution with parameters 1
    and 1.25, ``exchange`` (GTR) from the uniform distribution over six proportions, ``frequencies``, where estimated,
    from the uniform distribution over four proportions, ``shape`` of the rates over sites from an exponential
    distribution of mean 1, and the proportion ``invariant`` from the uniform distribution on [0, 1].

    Samplers propose values so extreme that floating point rounds them to 0 or infinity, and no process can be made of
    those. Then the closest possible value is used, which is less than :math:`10^{-12}` away or lies where the prior
    density is zero to the last digit. Prior and Jacobian still rule the proposal out, so the sampler rejects it.

    Args:
        substitution: the model of substitution: ``"JC69"``, ``"K80"``, ``"HKY85"`` or ``"GTR"``.
        frequencies: how the frequencies of the nucleotides are set: ``"equal"``, ``"empirical"`` (those of the
            alignment) or ``"estimated"``. JC69 and K80 have equal ones; for HKY85 and GTR the default is
            ``"empirical"``.
        rates: how the rate varies over sites: ``"constant"``, ``"gamma"`` or ``"weibull"``.
        num_categories: the number of categories of rates, where rates vary over sites.
        invariant: whether a proportion of the sites never changes.

    Raises:
        ValueError: if an argument is out of range, or the model does not allow the choice of frequencies.

    Example:
        >>> Process("HKY85", rates="gamma").free_parameters
        ('kappa', 'shape')
    """

    substitution: str = "JC69"
    frequencies: str | None = None
    rates: str = "constant"
    num_categories: int = 4
    invariant: bool = False

    def __post_init__(self) -> None:
        one_of("substitution", self.substitution, SUBSTITUTION_MODELS)
        one_of("rates", self.rates, RATES)
        if self.frequencies is not None:
            one_of("frequencies", self.frequencies, FREQUENCIES)
            if self._equal and self.frequencies != "equal":
                raise ValueError(
                    f"frequencies={self.frequencies!r} does not go with {self.substitution}, whose states are equally "
                    'frequent; take "HKY85" or "GTR"'
                )
        positive_int("num_categories", self.num_categories)

    @property
    def free_parameters(self) -> tuple[str, ...]:
        """The names of the unknowns, which are the sites that :meth:`sample` samples."""
        has = {
            "kappa": self.substitution in ("K80", "HKY85"),
            "exchange": self.substitution == "GTR",
            "frequencies": self.frequencies == "estimated",
            "shape": self.rates != "constant",
            "invariant": self.invariant,
        }
        return tuple(name for name, present in has.items() if present)

    def sample(self, empirical: Tensor) -> tuple[SubstitutionModel, SiteModel]:
        """Sample the unknowns inside a Pyro program; return the model of substitution and that of rates over sites.

        Args:
            empirical: the frequencies of A, C, G and T in the data, shape ``(4,)``; the unknowns have the type and
                device of this tensor.
        """
        return self._substitution_model(empirical), self._site_model(empirical)

    @property
    def _equal(self) -> bool:
        return self.substitution in ("JC69", "K80")

    def _substitution_model(self, empirical: Tensor) -> SubstitutionModel:
        if self.substitution == "JC69":
            return JC69(empirical)
        if self.substitution == "GTR":
            exchange = pyro.sample("exchange", dist.Dirichlet(empirical.new_ones(6)))
            return GTR(_within(exchange, _PROPORTIONS), self._frequencies(empirical))
        kappa = pyro.sample("kappa", dist.LogNormal(empirical.new_tensor(1.0), 1.25))
        kappa = _within(kappa, _RATIOS)
        return K80(kappa) if self.substitution == "K80" else HKY85(kappa, self._frequencies(empirical))

    def _frequencies(self, empirical: Tensor) -> Tensor:
        if self.frequencies == "estimated":
            sampled = pyro.sample("frequencies", dist.Dirichlet(torch.ones_like(empirical)))
            positive = _within(sampled, _PROPORTIONS)
            return positive / positive.sum(-1, keepdim=True)
        return torch.full_like(empirical, 0.25) if self.frequencies == "equal" else empirical

    def _site_model(self, like: Tensor) -> SiteModel:
        model: SiteModel = ConstantRate()
        if self.rates != "constant":
            shape = _within(pyro.sample("shape", dist.Exponential(like.new_ones(()))), _SHAPES)
            model = (GammaRates if self.rates == "gamma" else WeibullRates)(shape, self.num_categories)
        if self.invariant:
            one = like.new_ones(())
            model = InvariantSites(_within(pyro.sample("invariant", dist.Beta(one, one)), _SHARES), model)
        return model


def _within(value: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Return a value moved inside bounds; NaN, which has no prior density, becomes the lower bound."""
    low, high = bounds
    return value.nan_to_num(low, high, low).clamp(low, high)
