"""The process of substitution with its unknowns: which model, which frequencies, which rates over sites."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from pyro_ext.phylo.rates import ConstantRate, GammaRates, InvariantSites, SiteModel, WeibullRates
from pyro_ext.phylo.substitution import GTR, HKY85, JC69, K80, SubstitutionModel

__all__ = ["FREQUENCIES", "RATES", "SUBSTITUTION_MODELS", "Process"]

_PROPORTIONS = (1e-12, 1.0)  # the exponential of a rate matrix loses as many digits as the rarest state has zeros
_RATIOS = (1e-12, 1e12)
_SHAPES = (1e-6, 1e3)
_SHARES = (0.0, 1 - 1e-6)

SUBSTITUTION_MODELS = ("JC69", "K80", "HKY85", "GTR")
FREQUENCIES = ("equal", "empirical", "estimated")
RATES = ("constant", "gamma", "weibull")


@dataclass(frozen=True)
class Process:
    """How nucleotides are substituted, as a part of a Pyro program.

    Its unknowns are sampled: ``kappa`` (K80, HKY85) from a log-normal law with parameters 1 and 1.25, ``exchange``
    (GTR) from the uniform law of six proportions, ``frequencies`` from the uniform law where estimated, ``shape`` of
    the rates over sites from an exponential law of mean 1, ``invariant`` from the uniform law of a proportion.

    Samplers propose values so extreme that floating point rounds them to 0 or infinity, of which no process can be
    made. The process is that of the closest value it can be made of, less than :math:`10^{-12}` away or out where the
    prior density is zero to the last digit; prior and Jacobian say that the proposal is impossible, so it is rejected.

    Args:
        substitution: one of :data:`SUBSTITUTION_MODELS`.
        frequencies: of the states: ``"equal"``, ``"empirical"`` or ``"estimated"``; for JC69 and K80 they are equal. By
            default ``"empirical"`` where the model has any.
        rates: ``"constant"``, ``"gamma"`` or ``"weibull"`` over sites.
        num_categories: of the rates, if they vary.
        invariant: whether a proportion of the sites never changes.

    Raises:
        ValueError: if an argument is out of range.

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
        _check("substitution", self.substitution, SUBSTITUTION_MODELS)
        _check("rates", self.rates, RATES)
        if self.frequencies is not None:
            _check("frequencies", self.frequencies, FREQUENCIES)
            if self._equal and self.frequencies != "equal":
                raise ValueError(
                    f"frequencies={self.frequencies!r} does not go with {self.substitution}, whose states are equally "
                    'frequent; take "HKY85" or "GTR"'
                )
        if isinstance(self.num_categories, bool) or not isinstance(self.num_categories, int) or self.num_categories < 1:
            raise ValueError(f"num_categories must be an integer of at least 1, got {self.num_categories!r}")

    @property
    def free_parameters(self) -> tuple[str, ...]:
        """The names of the sites that :meth:`sample` has."""
        has = {
            "kappa": self.substitution in ("K80", "HKY85"),
            "exchange": self.substitution == "GTR",
            "frequencies": self.frequencies == "estimated",
            "shape": self.rates != "constant",
            "invariant": self.invariant,
        }
        return tuple(name for name, present in has.items() if present)

    def sample(self, empirical: Tensor) -> tuple[SubstitutionModel, SiteModel]:
        """Sample the unknowns inside a Pyro program; return the models.

        Args:
            empirical: frequencies of the states in the data, ``(4,)``, whose type and device the unknowns have.
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
            found = _within(pyro.sample("frequencies", dist.Dirichlet(torch.ones_like(empirical))), _PROPORTIONS)
            return found / found.sum(-1, keepdim=True)
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
    """Return a value moved inside bounds; what is not a number lies at the lower, and has no prior density."""
    low, high = bounds
    return value.nan_to_num(low, high, low).clamp(low, high)


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
