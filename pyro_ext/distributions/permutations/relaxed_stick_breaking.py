"""A reparameterised density on the Birkhoff polytope that concentrates on permutations as it cools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Normal, TransformedDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_ext.distributions.constraints import doubly_stochastic
from pyro_ext.distributions.permutations._parameters import (
    as_parameter,
    broadcast_matrices,
    check_matrix,
    check_values,
    matrix_shapes,
)
from pyro_ext.distributions.permutations.stick_breaking import StickBreakingPermutation
from pyro_ext.distributions.transforms import BirkhoffStickBreaking
from pyro_ext.utils.checks import check_positive_tensor

__all__ = ["RelaxedStickBreakingPermutation"]


class RelaxedStickBreakingPermutation(TransformedDistribution):
    r"""Doubly stochastic matrices from a Gaussian by stick-breaking; near permutations at low temperature.

    .. math::  X = \mathrm{StickBreaking}(\psi / \tau), \qquad \psi_{mn} \sim N(\mu_{mn}, \nu_{mn}^2),

    with :class:`~pyro_ext.distributions.transforms.BirkhoffStickBreaking`, whose offsets make ``loc = 0`` the centre.
    The density is with respect to Lebesgue measure on the upper-left ``(N - 1, N - 1)`` block; samples are
    reparameterised without bias. The KL divergence of two such distributions is that of their Gaussians.

    The distribution remembers its last sample, whose density needs no inversion. For other values at temperatures below
    about a quarter of ``scale``, float32 (and below a tenth, float64) cannot hold what the inverse needs, and the
    log-density is a finite but truncated value.

    Args:
        loc: the means, ``batch_shape + (N - 1, N - 1)``.
        scale: the standard deviations of the noise, a shape that broadcasts to that of ``loc``.
        temperature: positive numbers, ``batch_shape`` or a shape that broadcasts to it.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``loc`` is no batch of square matrices, the shapes do not fit, ``scale`` or ``temperature`` is
            not positive, or any value is not finite.

    References:
        | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018),
        | section 3, https://arxiv.org/abs/1710.09508

    >>> d = RelaxedStickBreakingPermutation(torch.tensor([[2.0, 0.0], [0.0, -2.0]]), 1.0, temperature=0.5)
    >>> x = d.rsample()
    >>> x.sum(-1), x.sum(-2)
    (tensor([1.0000, 1.0000, 1.0000]), tensor([1.0000, 1.0000, 1.0000]))
    >>> d.log_prob(torch.full((3, 3), 1 / 3))
    tensor(-3.5690)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
        "temperature": constraints.positive,
    }
    support: ClassVar[Any] = doubly_stochastic

    def __init__(
        self, loc: Tensor, scale: Tensor | float, temperature: Tensor | float, validate_args: bool | None = None
    ) -> None:
        check_matrix("loc", loc, least=0)
        scale, temperature = as_parameter("scale", scale, loc), as_parameter("temperature", temperature, loc)
        if self._validate_args if validate_args is None else validate_args:
            check_values("loc", loc)
            check_positive_tensor("scale", scale)
            check_positive_tensor("temperature", temperature)
        self.loc, self.scale, self.temperature = broadcast_matrices(loc, scale, temperature)
        tau = self.temperature[..., None, None]
        base = Normal(self.loc / tau, self.scale / tau, validate_args=False).to_event(2)
        super().__init__(base, [BirkhoffStickBreaking(cache_size=1)], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its parameters broadcast to ``batch_shape``."""
        batch_shape = torch.Size(batch_shape)
        new = super().expand(batch_shape, self._get_checked_instance(type(self), _instance))
        new.loc = self.loc.expand(batch_shape + self.loc.shape[-2:])
        new.scale = self.scale.expand(new.loc.shape)
        new.temperature = self.temperature.expand(batch_shape)
        return new

    @classmethod
    def infer_shapes(
        cls, loc: Sequence[int], scale: Sequence[int] = (), temperature: Sequence[int] = ()
    ) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape for parameters of these shapes."""
        return matrix_shapes(loc, [scale], temperature, grow=1)

    @property
    def permutation_size(self) -> int:
        """N, the number of rows."""
        return int(self.event_shape[-1])

    def zero_temperature_limit(self) -> StickBreakingPermutation:
        r"""Return the distribution of the permutation that samples tend to as the temperature falls to 0.

        Each decision goes up with probability :math:`P(\psi > 0) = \Phi(\mu / \nu)`.
        """
        standardised = self.loc / self.scale
        logits = torch.special.log_ndtr(standardised) - torch.special.log_ndtr(-standardised)
        return StickBreakingPermutation(logits, validate_args=self._validate_args)

    def __repr__(self) -> str:
        n = self.permutation_size
        return f"{type(self).__name__}(batch_shape: {tuple(self.batch_shape)}, N={n})"
