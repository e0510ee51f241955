"""The finite distribution of a sample site: its table of log-probabilities and the values its indices stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro import distributions as dist
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_ext.distributions.structure import unwrap

__all__ = ["FiniteDistribution", "InfiniteSupportError", "finite_distribution", "parameter_dtype"]


class InfiniteSupportError(ValueError):
    """A distribution whose support cannot be enumerated was given where a finite one is needed."""


@dataclass
class FiniteDistribution:
    """A product of N independent categorical coordinates; a univariate site has N = 1.

    Attributes:
        log_probs: the normalised log-probabilities, ``batch_shape + (N, C)`` float64, without gradient.
        support: the C values of a coordinate, ``(C,) + base event shape``.
        coordinates: the shape of the N coordinates in a value; N is the product of its sizes.
    """

    log_probs: Tensor
    support: Tensor
    coordinates: torch.Size

    @property
    def domain_size(self) -> int:
        """The number C^N of joint values."""
        return int(self.log_probs.shape[-1]) ** int(self.log_probs.shape[-2])

    def configurations(self) -> Tensor:
        """Return all joint values as configurations of indices, ``batch_shape + (C^N, N)``."""
        n, c = self.log_probs.shape[-2:]
        number = torch.arange(self.domain_size, device=self.log_probs.device)
        powers = c ** torch.arange(n - 1, -1, -1, device=number.device)
        index = torch.div(number.unsqueeze(-1), powers, rounding_mode="floor") % c
        return index.expand(*self.log_probs.shape[:-2], *index.shape)

    def values(self, index: Tensor) -> Tensor:
        """Turn configurations ``batch_shape + (k, N)`` into values ``(k,) + batch_shape + event_shape``."""
        index = index.movedim(-2, 0)
        value = self.support[index]
        return value.reshape(index.shape[:-1] + self.coordinates + self.support.shape[1:])


def finite_distribution(fn: Any) -> FiniteDistribution:
    """Read the table of log-probabilities off a distribution that can be enumerated, or ``.to_event`` of such.

    Args:
        fn: a Pyro distribution; its masks are ignored, for they change its score and not its probabilities.

    Raises:
        InfiniteSupportError: if its support cannot be enumerated.
        ValueError: if its probabilities are not numbers (checked while Pyro's validation is on).
    """
    base, num_coordinates = unwrap(fn)
    split = len(base.batch_shape) - num_coordinates
    coordinates = base.batch_shape[split:]
    table, support = _table(base)
    table = table.detach().double().log_softmax(-1)
    if is_validation_enabled() and bool(table.isnan().any()):
        raise ValueError(
            f"{type(base).__name__} has no probabilities: its logits are NaN or all -inf for some batch element; "
            "give every element a finite logit"
        )
    table = table.reshape((*base.batch_shape[:split], coordinates.numel(), table.shape[-1]))
    return FiniteDistribution(table, support, coordinates)


def _table(base: Any) -> tuple[Tensor, Tensor]:
    """Return log-probabilities ``batch_shape + (C,)``, perhaps unnormalised, and the support ``(C,) + event_shape``."""
    try:
        support = base.enumerate_support(expand=False)
    except NotImplementedError as error:
        raise InfiniteSupportError(f"{type(base).__name__} has no support that can be enumerated") from error
    if isinstance(base, dist.Categorical | dist.OneHotCategorical):
        table = base.logits
    else:
        table = base.log_prob(support).expand(support.shape[:1] + base.batch_shape).movedim(0, -1)
    return table, support.reshape(support.shape[:1] + base.event_shape)


def parameter_dtype(fn: Any) -> torch.dtype:
    """Return the floating dtype of a distribution's parameters, the default dtype where it has none."""
    base = unwrap(fn).base
    for name in getattr(base, "arg_constraints", {}):
        parameter = getattr(base, name, None)
        if isinstance(parameter, Tensor) and parameter.is_floating_point():
            return parameter.dtype
    return torch.get_default_dtype()
