"""Gumbel noise on the scores of a matching, relaxed by Sinkhorn scaling or matched exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Gumbel, TorchDistribution
from torch import Tensor
from torch.distributions import constraints as tc
from torch.distributions import kl_divergence
from torch.distributions.kl import register_kl

from pyro_ext.distributions import constraints
from pyro_ext.distributions.permutations._discrete import PermutationDistribution
from pyro_ext.distributions.permutations._parameters import (
    as_parameter,
    broadcast_temperature,
    check_matrix,
    check_potentials,
    check_scaling,
    matrix_shapes,
)
from pyro_ext.ops.assignment import best_permutation
from pyro_ext.ops.sets import gumbel_like
from pyro_ext.ops.sinkhorn import sinkhorn
from pyro_ext.utils.checks import check_positive_tensor

__all__ = ["GumbelMatching", "GumbelSinkhorn"]

_UNKNOWN = (
    "the probabilities of GumbelMatching are not known: use PermutationMatching, whose are, or keep the Gumbel noise "
    "as the site, pyro.sample(name, GumbelSinkhorn(log_potentials, temperature).noise())"
)


class GumbelMatching(PermutationDistribution):
    r"""The best matching under scores perturbed by Gumbel noise.

    .. math::  P = \arg\max_{P'} \langle L + G, P' \rangle, \qquad G_{ij} \sim \mathrm{Gumbel}(0, 1).

    It is not a sample of :math:`\exp \langle L, P \rangle / Z`, for which see
    :class:`~pyro_ext.distributions.PermutationMatching`, and its probabilities are not known: ``log_prob`` raises.

    Args:
        log_potentials: the scores L, ``batch_shape + (N, N)``; -inf for cells never used.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``log_potentials`` is no batch of square matrices, holds NaN or +inf, or leaves no permutation.

    References:
        | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018), section 4
        | https://arxiv.org/abs/1802.08665

    >>> GumbelMatching(torch.tensor([[9.0, 0.0], [0.0, 9.0]])).sample()
    tensor([[1., 0.], [0., 1.]])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"log_potentials": tc.independent(tc.real, 2)}

    def __init__(self, log_potentials: Tensor, validate_args: bool | None = None) -> None:
        check_matrix("log_potentials", log_potentials)
        if self._validate_args if validate_args is None else validate_args:
            check_potentials(log_potentials)
        self.log_potentials = log_potentials
        super().__init__(log_potentials.shape[-1], log_potentials.shape[:-2], validate_args)

    @property
    def _parameter(self) -> Tensor:
        return self.log_potentials

    has_enumerate_support: ClassVar[bool] = False

    @classmethod
    def infer_shapes(cls, log_potentials: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape for a parameter of this shape."""
        return matrix_shapes(log_potentials)

    @property
    def mode(self) -> Tensor:
        """The best matching without noise, ``batch_shape + (N, N)``."""
        return best_permutation(self.log_potentials)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw permutation matrices, ``sample_shape + batch_shape + (N, N)``."""
        scores = self.log_potentials.expand(torch.Size(sample_shape) + self.log_potentials.shape)
        return best_permutation(scores + gumbel_like(scores)).to(scores.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise a NotImplementedError: the probabilities have no closed form."""
        raise NotImplementedError(_UNKNOWN)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Raise a NotImplementedError: without probabilities there is nothing to sum."""
        raise NotImplementedError(_UNKNOWN)


class GumbelSinkhorn(TorchDistribution):
    r"""The doubly stochastic scaling of scores perturbed by Gumbel noise: a reparameterised relaxed matching.

    .. math::  X = \mathrm{Sinkhorn}(\exp((L + G) / \tau)), \qquad G_{ij} \sim \mathrm{Gumbel}(0, 1),

    which tends to :class:`GumbelMatching` as the temperature falls. X has no tractable density, and ``log_prob``
    raises. In a model the noise is the site and X a function of it::

        d = GumbelSinkhorn(log_potentials, temperature)
        x = d.from_noise(pyro.sample("noise", d.noise()))

    with ``GumbelSinkhorn(prior_potentials, temperature).noise()`` in the model. ``kl_divergence`` of two such
    distributions is that of their perturbed scores over the temperature, an upper bound on that of X, as in the paper.

    Args:
        log_potentials: the scores L, ``batch_shape + (N, N)``; -inf for cells never used.
        temperature: positive numbers, ``batch_shape`` or a shape that broadcasts to it.
        num_iterations: the number of Sinkhorn iterations, 20 in the paper; to ``tolerance`` if None.
        tolerance: the largest deviation of a column's sum from 1; rows always sum to 1.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``log_potentials`` is no batch of square matrices, holds NaN or +inf, or leaves no permutation;
            if the shapes do not fit, ``temperature`` is not positive and finite, or ``num_iterations`` or
            ``tolerance`` is not positive.

    References:
        | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018), section 4
        | https://arxiv.org/abs/1802.08665

    >>> GumbelSinkhorn(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), 5.0).rsample()
    tensor([[0.9061, 0.0939], [0.0939, 0.9061]])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "log_potentials": tc.independent(tc.real, 2),
        "temperature": tc.positive,
    }
    has_rsample = True

    def __init__(
        self,
        log_potentials: Tensor,
        temperature: Tensor | float,
        num_iterations: int | None = None,
        tolerance: float = 1e-8,
        validate_args: bool | None = None,
    ) -> None:
        check_matrix("log_potentials", log_potentials)
        check_scaling(num_iterations, tolerance)
        temperature = as_parameter("temperature", temperature, log_potentials)
        if self._validate_args if validate_args is None else validate_args:
            check_potentials(log_potentials)
            check_positive_tensor("temperature", temperature)
        self.log_potentials, self.temperature = broadcast_temperature("log_potentials", log_potentials, temperature)
        self.num_iterations, self.tolerance = num_iterations, tolerance
        shape = self.log_potentials.shape
        super().__init__(shape[:-2], shape[-2:], validate_args=validate_args)

    @tc.dependent_property(is_discrete=False, event_dim=2)
    def support(self) -> Any:
        """Doubly stochastic matrices to the tolerance; with ``num_iterations``, rows on the simplex."""
        if self.num_iterations is None:
            return constraints.doubly_stochastic_to(2 * self.tolerance)
        return tc.independent(tc.simplex, 1)

    @property
    def permutation_size(self) -> int:
        """N, the number of rows."""
        return int(self.event_shape[-1])

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its parameters broadcast to ``batch_shape``."""
        new = self._get_checked_instance(GumbelSinkhorn, _instance)
        batch_shape = torch.Size(batch_shape)
        new.log_potentials = self.log_potentials.expand(batch_shape + self.event_shape)
        new.temperature = self.temperature.expand(batch_shape)
        new.num_iterations, new.tolerance = self.num_iterations, self.tolerance
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @classmethod
    def infer_shapes(
        cls, log_potentials: Sequence[int], temperature: Sequence[int] = (), **others: Sequence[int]
    ) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape for parameters of these shapes."""
        return matrix_shapes(log_potentials, temperature=temperature)

    def noise(self) -> Any:
        """Return the distribution of the perturbed scores L + G, ``(N, N)``, with L taken as 0 in cells never used."""
        loc = self._finite_potentials
        return Gumbel(loc, torch.ones_like(loc), validate_args=False).to_event(2)

    def from_noise(self, scores: Tensor) -> Tensor:
        """Return X for perturbed scores ``(..., N, N)``, differentiable in them and in the temperature."""
        usable = self.log_potentials > -math.inf
        scores = torch.where(usable, scores / self.temperature[..., None, None], -math.inf)
        return sinkhorn(scores, self.tolerance, self.num_iterations)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw matrices, ``sample_shape + batch_shape + (N, N)``."""
        scores = self._finite_potentials.expand(torch.Size(sample_shape) + self.log_potentials.shape)
        perturbed = scores + gumbel_like(scores)  # float64, where ties do not happen
        return self.from_noise(perturbed).to(scores.dtype)

    @property
    def _finite_potentials(self) -> Tensor:
        """L with 0 in cells never used: infinities would make gradients of the temperature NaN."""
        return self.log_potentials.masked_fill(self.log_potentials == -math.inf, 0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise a NotImplementedError: there is no tractable density."""
        raise NotImplementedError(
            "GumbelSinkhorn has no tractable density: let the noise be the site, "
            "x = d.from_noise(pyro.sample(name, d.noise())), whose density is known"
        )

    def zero_temperature_limit(self) -> GumbelMatching:
        """Return the distribution of the permutation that samples tend to as the temperature falls to 0."""
        return GumbelMatching(self.log_potentials, validate_args=self._validate_args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape: {tuple(self.batch_shape)}, N={self.permutation_size})"


@register_kl(GumbelSinkhorn, GumbelSinkhorn)
def _kl(p: GumbelSinkhorn, q: GumbelSinkhorn) -> Tensor:
    used, known = p.log_potentials > -math.inf, q.log_potentials > -math.inf
    cells = kl_divergence(_scaled_noise(p, used), _scaled_noise(q, known))
    cells = torch.where(used, cells.masked_fill(used & ~known, math.inf), 0)
    return cells.sum((-2, -1))


def _scaled_noise(d: GumbelSinkhorn, used: Tensor) -> torch.distributions.Gumbel:
    """Return the distribution of each cell of (L + G) / tau."""
    tau = d.temperature[..., None, None]
    loc = torch.where(used, d.log_potentials, 0) / tau
    return torch.distributions.Gumbel(loc, (1 / tau).expand(loc.shape), validate_args=False)
