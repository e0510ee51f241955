r"""Scales that the weights of a group share, and by which whole groups are removed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions import Gamma, InverseGamma
from torch import Tensor

from pyro_ext.distributions import LogUniform
from pyro_ext.nn.local import LocalParameters
from pyro_ext.nn.local_log_normal import drawn_per_row, log_parameters
from pyro_ext.ops.log_uniform import KL_FORMS, KLForm, log_alpha
from pyro_ext.utils.checks import one_of, positive_number
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["GroupScale", "Horseshoe", "NormalJeffreys", "ScaleMoments"]


class ScaleMoments(NamedTuple):
    """What the posterior of scales says about each group.

    Args:
        mean: the posterior means, ``(groups,)``.
        variance: the posterior variances, ``(groups,)``.
        score: how dispensable a group is, ``(groups,)``: large ones are removed.
    """

    mean: Tensor
    variance: Tensor
    score: Tensor


class GroupScale(ABC):
    """The prior of the scales of a layer's groups: which sites there are, and how a scale follows from them.

    Attributes:
        is_positive: whether the sites are positive; they are real if not.
    """

    is_positive: ClassVar[bool]

    @abstractmethod
    def starts(self, like: Tensor) -> dict[str, Tensor]:
        """Return values of all sites, by name, at which scales are 1.

        Args:
            like: a tensor of shape ``(groups,)`` and of the device and type of the layer.
        """

    @abstractmethod
    def prior(self, name: str, like: Tensor) -> Any:
        """Return the prior of a site, all dims of which are event dims.

        Args:
            name: the name of the site.
            like: as in :meth:`starts`.
        """

    @abstractmethod
    def combine(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the scales, ``(..., groups)``.

        Args:
            values: those of all sites, by name.
        """

    def drawn(self, values: Mapping[str, Tensor], rows: int | None) -> Tensor:
        """Return scales that are drawn anew for each row of a batch, where values are samples of local distributions.

        Args:
            values: those of all sites, by name.
            rows: the number B of rows; the same scales for all if None.

        Returns:
            ``(..., B, groups)``, or ``(..., groups)`` where nothing is drawn anew.
        """
        return self.combine({name: drawn_per_row(value, rows) for name, value in values.items()})

    @abstractmethod
    def value(self, name: str, posterior: Mapping[str, LocalParameters], threshold: float) -> Tensor:
        """Return the value of a site with which scales are their means, or 0 for groups that are removed.

        Args:
            name: the name of the site.
            posterior: as for :meth:`moments`.
            threshold: groups with at least this score are removed.
        """

    @abstractmethod
    def moments(self, posterior: Mapping[str, LocalParameters]) -> ScaleMoments:
        """Return what a posterior says about each group.

        Args:
            posterior: the parameters of the guide's distributions, by the names of sites; of logarithms for positive
                ones.
        """


@dataclass(frozen=True)
class NormalJeffreys(GroupScale):
    r"""Scales with the log-uniform prior, :math:`p(z_i) \propto 1 / |z_i|`: one site, ``z``.

    Together with :math:`w_{ij} \mid z_i \sim \mathcal{N}(0, z_i^2)` this is the normal-Jeffreys prior of groups. The
    posterior :math:`\mathcal{N}(\mu, \sigma^2)` of a scale gives the score :math:`\log\alpha = \log \sigma^2 -
    \log \mu^2`.

    Args:
        kl: the form of the divergence, ``"approx"`` or ``"exact"``; see
            :func:`pyro_ext.ops.log_uniform.log_uniform_kl`.

    Raises:
        ValueError: if ``kl`` names no form.

    References:
        | Bayesian compression for deep learning (Louizos et al., 2017), section 4.1
        | https://arxiv.org/abs/1705.08665

    Example:
        >>> scale = NormalJeffreys()
        >>> scale.prior("z", torch.ones(3)).event_shape
        torch.Size([3])
        >>> scale.moments({"z": LocalParameters(torch.ones(3), torch.full((3,), -9.0))}).score
        tensor([-9., -9., -9.])
    """

    is_positive: ClassVar[bool] = False

    kl: KLForm = "approx"

    def __post_init__(self) -> None:
        one_of("kl", self.kl, KL_FORMS)

    def starts(self, like: Tensor) -> dict[str, Tensor]:
        """Return scales of 1."""
        return {"z": torch.ones_like(like)}

    def prior(self, name: str, like: Tensor) -> Any:
        """Return log-uniform priors."""
        return LogUniform(like.new_full((), 1e-4), 1.0, self.kl, validate_args=False).expand(like.shape).to_event(1)

    def combine(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the values of ``z``."""
        return values["z"]

    def value(self, name: str, posterior: Mapping[str, LocalParameters], threshold: float) -> Tensor:
        """Return the means, or 0 for groups that are removed."""
        mean, _, score = self.moments(posterior)
        return mean.masked_fill(score >= threshold, 0.0)

    def moments(self, posterior: Mapping[str, LocalParameters]) -> ScaleMoments:
        r"""Return mean, variance and :math:`\log\alpha` of each scale."""
        loc, log_variance = posterior["z"]
        return ScaleMoments(loc, log_variance.exp(), log_alpha(loc, log_variance))


@dataclass(frozen=True)
class Horseshoe(GroupScale):
    r"""Scales with the horseshoe prior: half-Cauchy ones, times a half-Cauchy scale that they share.

    .. math::

        s \sim C^+(0, \tau_0), \qquad \tilde z_i \sim C^+(0, 1), \qquad z_i = s \tilde z_i.

    The square of a half-Cauchy variable of scale :math:`\tau` is a product of independent variables, Gamma with
    concentration 1/2 and rate :math:`1 / \tau^2` and inverse Gamma with concentration 1/2 and rate 1. So there are
    four sites, ``shared_gamma``, ``shared_inverse``, ``gamma`` and ``inverse``, and a scale is the root of their
    product. Log-normal posteriors of all four make that of a scale log-normal, :math:`\log z_i \sim \mathcal{N}(m_i,
    v_i)`, and its score is minus its log-mode, :math:`v_i - m_i`.

    Args:
        global_scale: the prior scale :math:`\tau_0` of s; small ones favour few groups.

    Raises:
        ValueError: if ``global_scale`` is not a positive number.

    References:
        | Bayesian compression for deep learning (Louizos et al., 2017), section 4.2 and appendix
        | https://arxiv.org/abs/1705.08665

    Example:
        >>> scale = Horseshoe()
        >>> scale.combine(scale.starts(torch.ones(3)))
        tensor([1.0000, 1.0000, 1.0000])
    """

    is_positive: ClassVar[bool] = True
    SITES: ClassVar[tuple[str, ...]] = ("shared_gamma", "shared_inverse", "gamma", "inverse")

    global_scale: float = 1e-5

    def __post_init__(self) -> None:
        positive_number("global_scale", self.global_scale)

    def starts(self, like: Tensor) -> dict[str, Tensor]:
        r"""Return values with scales of 1 whose prior densities are not out of reach.

        At :math:`s_a = 1` the divergence of ``shared_gamma`` would contain :math:`s_a / \tau_0^2`, 1e10.
        """
        shared = math.log(self.global_scale**2 / 2)
        return {
            "shared_gamma": like.new_full((1,), math.exp(shared)),
            "shared_inverse": like.new_full((1,), math.exp(-shared)),
            "gamma": torch.ones_like(like),
            "inverse": torch.ones_like(like),
        }

    def prior(self, name: str, like: Tensor) -> Any:
        """Return priors of Gamma or inverse Gamma variables."""
        half, one = like.new_full((), 0.5), like.new_ones(())
        rate = one / self.global_scale**2 if name == "shared_gamma" else one
        kind = Gamma if name.endswith("gamma") else InverseGamma
        shape = (1,) if name.startswith("shared") else like.shape
        return kind(half, rate, validate_args=False).expand(shape).to_event(1)

    def combine(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the root of the product."""
        # by logarithms: factors of 1e-10 and 1e10 leave little of single precision
        return (0.5 * sum((values[name].log() for name in self.SITES[1:]), values[self.SITES[0]].log())).exp()

    def drawn(self, values: Mapping[str, Tensor], rows: int | None) -> Tensor:
        """Return scales drawn for each row: the logarithm of a product of log-normal variables is one normal draw."""
        noises = [log_parameters(values[name]) for name in self.SITES]
        known = [noise for noise in noises if noise is not None]
        if rows is None or len(known) < len(noises):
            return super().drawn(values, rows)
        batch = broadcast_shapes(values["gamma"].shape[:-1], (rows,))
        log_scale: Any = 0.0
        for first, second in (known[:2], known[2:]):  # the shared factor, and those of the groups
            loc = 0.5 * (first.loc + second.loc)
            deviation = 0.5 * (first.log_variance.exp() + second.log_variance.exp()).sqrt()
            noise = torch.randn(batch + loc.shape, dtype=loc.dtype, device=loc.device)
            log_scale = log_scale + torch.addcmul(loc, deviation, noise)
        return log_scale.exp()

    def value(self, name: str, posterior: Mapping[str, LocalParameters], threshold: float) -> Tensor:
        """Return the median, for ``gamma`` such that the root of the product is the mean of the scale, or 0."""
        median = posterior[name].loc.exp()
        if name != "gamma":
            return median
        mean, _, score = self.moments(posterior)
        others = self.combine({own: posterior[own].loc.exp() for own in self.SITES})
        return (median * (mean / others).square()).masked_fill(score >= threshold, 0.0)

    def moments(self, posterior: Mapping[str, LocalParameters]) -> ScaleMoments:
        """Return mean, variance and minus the log-mode of each scale."""
        loc = 0.5 * (sum((posterior[name].loc for name in self.SITES[1:]), posterior[self.SITES[0]].loc))
        variances = [posterior[name].log_variance.exp() for name in self.SITES]
        variance = 0.25 * sum(variances[1:], variances[0])
        mean = (loc + 0.5 * variance).exp()
        return ScaleMoments(mean, variance.expm1() * mean.square(), variance - loc)
