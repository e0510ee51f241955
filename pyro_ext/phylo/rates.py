"""How the rate of substitution varies over sites: a finite mixture of rates with mean 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.gamma_quantiles import gamma_category_means
from pyro_ext.utils.checks import check_positive_tensor, positive_int

__all__ = ["ConstantRate", "GammaRates", "InvariantSites", "RateMixture", "SiteModel", "WeibullRates"]


class RateMixture(NamedTuple):
    """A finite mixture of rates.

    Attributes:
        rates: the rates of the categories, ``batch_shape + (K,)``, of mean 1 under the probabilities.
        log_probs: log-probabilities of the categories, ``batch_shape + (K,)``.
    """

    rates: Tensor
    log_probs: Tensor


class SiteModel(ABC):
    """A distribution of the rates of sites."""

    @abstractmethod
    def mixture(self, like: Tensor) -> RateMixture:
        """Return the categories, in the type and on the device of ``like``."""


class ConstantRate(SiteModel):
    """One rate for all sites.

    >>> ConstantRate().mixture(torch.zeros(()))
    RateMixture(rates=tensor([1.]), log_probs=tensor([0.]))
    """

    def mixture(self, like: Tensor) -> RateMixture:
        """Return the single category."""
        return RateMixture(like.new_ones(1), like.new_zeros(1))

    def __repr__(self) -> str:
        return "ConstantRate()"


class GammaRates(SiteModel):
    r"""Gamma-distributed rates, cut into K equally probable categories, each with its mean rate.

    Args:
        shape: the shape :math:`\alpha` of the Gamma distribution of mean 1, positive, ``batch_shape``.
        num_categories: the number K of categories.

    Raises:
        ValueError: if an argument is out of range.

    References:
        | Maximum likelihood phylogenetic estimation from DNA sequences with variable rates over sites (Yang, 1994)
        | https://doi.org/10.1007/BF00160154

    >>> GammaRates(torch.tensor(0.5)).mixture(torch.zeros(())).rates
    tensor([0.0334, 0.2519, 0.8203, 2.8944])
    """

    def __init__(self, shape: Tensor, num_categories: int = 4) -> None:
        _check(shape, num_categories)
        self.shape, self.num_categories = shape, num_categories

    def mixture(self, like: Tensor) -> RateMixture:
        """Return the K categories."""
        return _equally_probable(gamma_category_means(self.shape, self.num_categories).to(like))

    def __repr__(self) -> str:
        return f"GammaRates(num_categories={self.num_categories})"


class WeibullRates(SiteModel):
    r"""Weibull-distributed rates, cut into K equally probable categories, each with its median rate, scaled to mean 1.

    Args:
        shape: the shape of the Weibull distribution, positive, ``batch_shape``.
        num_categories: the number K of categories.

    Raises:
        ValueError: if an argument is out of range.

    References:
        | Evaluating probabilistic programming and fast variational Bayesian inference in phylogenetics
        | (Fourment and Darling, 2019), https://doi.org/10.7717/peerj.8272

    >>> WeibullRates(torch.tensor(1.0)).mixture(torch.zeros(())).rates
    tensor([0.1458, 0.5131, 1.0708, 2.2703])
    """

    def __init__(self, shape: Tensor, num_categories: int = 4) -> None:
        _check(shape, num_categories)
        self.shape, self.num_categories = shape, num_categories

    def mixture(self, like: Tensor) -> RateMixture:
        """Return the K categories."""
        middle = (torch.arange(self.num_categories, dtype=like.dtype, device=like.device) + 0.5) / self.num_categories
        log_medians = (-(-middle).log1p()).log() / self.shape.unsqueeze(-1)
        # The ratio to the mean is a softmax: the medians themselves overflow for small shapes.
        return _equally_probable(self.num_categories * log_medians.softmax(-1))

    def __repr__(self) -> str:
        return f"WeibullRates(num_categories={self.num_categories})"


class InvariantSites(SiteModel):
    """A share of sites that never change; the others vary by another model, with rates such that the mean stays 1.

    Args:
        proportion: the share of sites that never change, in [0, 1), ``batch_shape``.
        others: the model of the other sites; a constant rate if None.

    Raises:
        ValueError: if ``proportion`` is out of range.

    >>> InvariantSites(torch.tensor(0.2)).mixture(torch.zeros(())).rates
    tensor([0.0000, 1.2500])
    """

    def __init__(self, proportion: Tensor, others: SiteModel | None = None) -> None:
        wrong = ~((proportion.detach() >= 0) & (proportion.detach() < 1))
        if wrong.any():
            raise ValueError(f"proportion must lie in [0, 1), got {proportion.detach()[wrong][0]:g}")
        self.proportion, self.others = proportion, ConstantRate() if others is None else others

    def mixture(self, like: Tensor) -> RateMixture:
        """Return the invariant category and those of the other sites."""
        share = self.proportion.to(like).unsqueeze(-1)
        rates, log_probs = self.others.mixture(like)
        rates, log_probs = torch.broadcast_tensors(rates / (1 - share), log_probs + (-share).log1p())
        share = share.expand(*rates.shape[:-1], 1)
        return RateMixture(torch.cat([torch.zeros_like(share), rates], -1), torch.cat([share.log(), log_probs], -1))

    def __repr__(self) -> str:
        return f"InvariantSites({self.others!r})"


def _equally_probable(rates: Tensor) -> RateMixture:
    return RateMixture(rates, torch.full_like(rates, 1 / rates.shape[-1]).log())


def _check(shape: Tensor, num_categories: int) -> None:
    check_positive_tensor("shape", shape)
    positive_int("num_categories", num_categories)
