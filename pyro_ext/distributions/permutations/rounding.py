"""Matrices drawn towards the nearest permutation: a density on the cells around the corners."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_ext.distributions.permutations._parameters import (
    as_parameter,
    broadcast_matrices,
    check_matrix,
    check_values,
    matrix_shapes,
)
from pyro_ext.ops.assignment import best_permutation, has_perfect_matching
from pyro_ext.ops.sinkhorn import sinkhorn
from pyro_ext.utils.checks import check_positive_tensor, one_of

__all__ = ["Gradient", "RelaxedRoundingPermutation"]

Gradient = Literal["pathwise", "straight_through", "score_function"]
"""How gradients pass through a sample."""

# A value may miss its cell by this many roundings of what its noise is recovered from.
_ROUNDINGS = 16


class _NoLocationScaleFamily(NotImplementedError, AttributeError):
    """Refuses a reparametrisation; an AttributeError too, so that whoever merely looks for parameters finds none."""


class RelaxedRoundingPermutation(TorchDistribution):
    r"""Gaussian noise around a doubly stochastic matrix, moved towards the nearest permutation.

    With M the doubly stochastic scaling of ``exp(loc)``, :math:`\nu` the scale and :math:`\tau` the temperature,

    .. math::  \Psi = M + \nu \epsilon, \qquad X = \tau \Psi + (1 - \tau) \, \mathrm{round}(\Psi),

    where round gives the nearest permutation matrix. The density, over all allowed cells,

    .. math::  \log q(X) = \sum_{ij} \log N(\Psi_{ij}; M_{ij}, \nu_{ij}^2) - N^2 \log \tau
               + \log 1[\mathrm{round}(\Psi) = \mathrm{round}(X)],
               \qquad \Psi = (X - (1 - \tau) \mathrm{round}(X)) / \tau,

    is zero outside the shrunk cells: the support is stated as all real matrices. The entropy is known exactly.

    **The pathwise gradient is biased below temperature 1.** X jumps where the nearest permutation changes, and
    ``gradient="pathwise"`` does not see the jumps: in a 2 x 2 example at temperature 0.3 it is 5.7 times too small,
    and it tends to zero with the temperature. Choose ``temperature=1`` for training, or

    * ``"straight_through"``: as if rounding had the identity as its derivative; biased too, but not vanishing;
    * ``"score_function"``: samples are not reparameterised and Pyro uses the density: unbiased, of high variance.

    Gradients of the entropy are exact in each case. The distribution remembers its last sample and the noise behind it;
    for other values the noise is recovered, to a precision of ``eps / temperature``: the density means little for
    float32 values below a temperature of about 1e-4.

    Args:
        loc: log-potentials, ``batch_shape + (N, N)``; cells outside ``mask`` are not looked at.
        scale: the standard deviation of the noise, a shape that broadcasts to that of ``loc``.
        temperature: numbers in (0, 1], ``batch_shape`` or a shape that broadcasts to it.
        gradient: how gradients pass through a sample: ``"pathwise"``, ``"straight_through"`` or ``"score_function"``.
        mask: the allowed cells, bool, a shape that broadcasts to that of ``loc``; samples are 0 in all others. All
            cells are allowed if None.
        num_iterations: the number of Sinkhorn iterations that give M; to a tolerance of 1e-8 if None.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``loc`` is no batch of square matrices, the shapes do not fit, ``scale`` is not positive or
            ``temperature`` not in (0, 1], values are not finite, ``gradient`` is unknown or ``mask`` holds no
            permutation.

    References:
        | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018),
        | section 4, https://arxiv.org/abs/1710.09508; the indicator and the bias are not stated there

    >>> d = RelaxedRoundingPermutation(torch.zeros(3, 3), 0.1, temperature=0.5)
    >>> d.rsample()
    tensor([[0.7437, 0.1520, 0.0577],
            [0.1951, 0.1124, 0.5967],
            [0.1868, 0.7086, 0.1307]])
    >>> d.entropy()
    tensor(-14.1911)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
        "temperature": constraints.interval(0, 1),
        "location_scale_form": constraints.dependent,  # not a parameter: see the property of that name
    }
    # a constraint of its own, for Pyro's AutoReparam takes all that has loc, scale and constraints.real for a
    # location-scale family
    support: ClassVar[Any] = constraints.independent(type(constraints.real)(), 2)

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor | float,
        temperature: Tensor | float,
        gradient: Gradient = "pathwise",
        mask: Tensor | None = None,
        num_iterations: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        check_matrix("loc", loc)
        one_of("gradient", gradient, get_args(Gradient))
        if mask is not None:
            loc = torch.where(_checked_mask(mask, loc), loc, 0)
        scale, temperature = as_parameter("scale", scale, loc), as_parameter("temperature", temperature, loc)
        if self._validate_args if validate_args is None else validate_args:
            _check_values(loc, scale, temperature, mask)
        self.loc, self.scale, self.temperature = broadcast_matrices(loc, scale, temperature)
        self.gradient: Gradient = gradient
        self.allowed = None if mask is None else mask.expand(self.loc.shape)
        potentials = loc if mask is None else loc.masked_fill(~mask, -math.inf)
        self.centre = sinkhorn(potentials, num_iterations=num_iterations).expand(self.loc.shape)
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(self.loc.shape[:-2], self.loc.shape[-2:], validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        """Whether samples are differentiable: not with ``gradient="score_function"``."""
        return self.gradient != "score_function"

    @property
    def location_scale_form(self) -> Tensor:
        """Raise an error: Pyro's ``LocScaleReparam`` asks for all parameters, and would make another distribution."""
        raise _NoLocationScaleFamily(
            "RelaxedRoundingPermutation is no location-scale family, since samples are moved towards the nearest "
            "permutation: leave its site out of LocScaleReparam"
        )

    @property
    def permutation_size(self) -> int:
        """N, the number of rows."""
        return int(self.event_shape[-1])

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its parameters broadcast to ``batch_shape``."""
        new = self._get_checked_instance(RelaxedRoundingPermutation, _instance)
        batch_shape = torch.Size(batch_shape)
        for name in ("loc", "scale", "centre"):
            setattr(new, name, getattr(self, name).expand(batch_shape + self.event_shape))
        new.allowed = None if self.allowed is None else self.allowed.expand(batch_shape + self.event_shape)
        new.temperature = self.temperature.expand(batch_shape)
        new.gradient, new._last = self.gradient, None
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @classmethod
    def infer_shapes(
        cls,
        loc: Sequence[int],
        scale: Sequence[int] = (),
        temperature: Sequence[int] = (),
        **others: Sequence[int],
    ) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape for parameters of these shapes."""
        return matrix_shapes(loc, [scale], temperature)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw matrices, ``sample_shape + batch_shape + (N, N)``, with the gradient that ``gradient`` names."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=self.centre.dtype, device=self.centre.device)
        psi = self.centre + self.scale * noise
        nearest = self._round(psi)
        if self.gradient == "straight_through":
            nearest = nearest + (psi - psi.detach())
        tau = self.temperature[..., None, None]
        value = self._masked(tau * psi + (1 - tau) * nearest)
        self._last = value, psi
        return value

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw matrices without gradient, ``sample_shape + batch_shape + (N, N)``."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of matrices ``(..., N, N)``, -inf outside the shrunk cells."""
        if self._validate_args:
            self._validate_sample(value)
        inside: Tensor | None = None
        if self._last is not None and self._last[0] is value and not (value.is_leaf and value.requires_grad):
            psi = self._last[1]
        else:
            psi, inside = self._recovered(value)
        terms = -0.5 * ((psi - self.centre) / self.scale).square() - self._log_volume()
        density = self._masked(terms).sum((-2, -1))
        return density if inside is None else density.masked_fill(~inside, -math.inf)

    def unrounded(self, value: Tensor) -> Tensor:
        r"""Return the Gaussian matrices :math:`\Psi` that were moved to ``value``, ``(..., N, N)``.

        They are the coordinates in which the distribution is simple: independent normal cells around ``centre``.

        >>> d = RelaxedRoundingPermutation(torch.zeros(2, 2), 0.1, temperature=0.5)
        >>> d.unrounded(torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
        tensor([[0.5000, 0.5000], [0.5000, 0.5000]])
        """
        return self._recovered(value)[0]

    @property
    def mean(self) -> Tensor:
        """Raise a NotImplementedError."""
        raise NotImplementedError("RelaxedRoundingPermutation has no mean in closed form: average samples")

    @property
    def mode(self) -> Tensor:
        """The matrix of largest density, ``batch_shape + (N, N)``: ``centre`` moved to its nearest permutation."""
        tau = self.temperature[..., None, None]
        return self._masked(tau * self.centre + (1 - tau) * self._round(self.centre))

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats over the allowed cells, exact, ``batch_shape``."""
        return self._masked(0.5 + self._log_volume()).sum((-2, -1))

    def _log_volume(self) -> Tensor:
        """Return minus the log-density of each cell's noise at its mode, ``batch_shape + (N, N)``."""
        return self.scale.log() + self.temperature.log()[..., None, None] + 0.5 * math.log(2 * math.pi)

    def _recovered(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise behind ``value`` and whether it rounds to the same permutation, up to rounding errors."""
        tau = self.temperature[..., None, None]
        nearest = self._round(value)
        psi = (value - (1 - tau) * nearest) / tau
        scores = psi.detach()
        short = (scores * (self._round(psi) - nearest)).sum((-2, -1))
        size = scores.abs().amax((-2, -1)) + 1 / self.temperature.detach()
        slack = _ROUNDINGS * torch.finfo(value.dtype).eps * self.permutation_size * size
        outside = torch.zeros_like(short, dtype=torch.bool)
        if self.allowed is not None:
            outside = ((value != 0) & ~self.allowed).any(-1).any(-1)
        return psi, (short <= slack) & ~outside

    def _round(self, matrix: Tensor) -> Tensor:
        scores = matrix.detach()
        return best_permutation(scores if self.allowed is None else scores.masked_fill(~self.allowed, -math.inf))

    def _masked(self, matrix: Tensor) -> Tensor:
        return matrix if self.allowed is None else torch.where(self.allowed, matrix, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def __repr__(self) -> str:
        shape = f"batch_shape: {tuple(self.batch_shape)}, N={self.permutation_size}"
        return f"{type(self).__name__}({shape}, gradient={self.gradient!r})"


def _checked_mask(mask: Tensor, loc: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ValueError(f"mask must be a bool tensor, got {mask!r}")
    try:
        return mask.expand(loc.shape)
    except RuntimeError as error:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, which does not broadcast to that of loc, {tuple(loc.shape)}"
        ) from error


def _check_values(loc: Tensor, scale: Tensor, temperature: Tensor, mask: Tensor | None) -> None:
    check_values("loc", loc)
    check_positive_tensor("scale", scale)
    wrong = ~((temperature > 0) & (temperature <= 1))
    if bool(wrong.any()):
        raise ValueError(f"temperature must be in (0, 1], got {float(temperature[wrong].flatten()[0])}")
    if mask is not None and not bool(has_perfect_matching(mask).all()):
        raise ValueError("mask holds no permutation: allow more cells")
