"""What the relaxed one-hot laws share: parameters, shapes, expansion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import lazy_property

from pyro_ext.distributions._draws import given_parameter
from pyro_ext.distributions.relaxed._parameters import (
    NoClosedForms,
    as_temperature,
    broadcast_batch,
    check_categories,
    inferred_batch,
)
from pyro_ext.ops.relaxed import gumbel_log_softmax, normalised_logits

__all__ = ["RelaxedCategoricalBase"]


class RelaxedCategoricalBase(NoClosedForms, TorchDistribution):
    """A law over ``K`` weights with a temperature and the probabilities of a categorical law.

    Args:
        temperature: positive, ``batch_shape`` or broadcastable with it.
        probs: probabilities up to a factor, ``batch_shape + (K,)``.
        logits: log-probabilities up to a constant instead, ``batch_shape + (K,)``.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if an argument is out of range, or the shapes do not broadcast.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "temperature": constraints.positive,
        "probs": constraints.simplex,
        "logits": constraints.real_vector,
    }
    has_rsample = True

    # the parameters besides logits and probs, which expand() copies as they are
    _plain: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = given_parameter(logits, probs)
        name = "probs" if logits is None else "logits"
        validate = self._validate_args if validate_args is None else validate_args
        if validate:
            check_categories(name, given)
        temperature = as_temperature(temperature, given, validate)
        batch_shape = broadcast_batch(temperature, name, given.shape[:-1])
        given = given.expand(batch_shape + given.shape[-1:])
        if logits is None:
            self.probs = given / given.sum(-1, keepdim=True)
        else:
            self.logits = given.log_softmax(-1)
        self.temperature = temperature.expand(batch_shape)
        super().__init__(batch_shape, given.shape[-1:], validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """Normalised log-probabilities, ``batch_shape + (K,)``."""
        return normalised_logits(self.probs)

    @lazy_property
    def probs(self) -> Tensor:
        """Normalised probabilities, ``batch_shape + (K,)``."""
        return self.logits.exp()

    @property
    def param_shape(self) -> torch.Size:
        """The shape of ``logits`` and ``probs``, ``batch_shape + (K,)``."""
        return self.batch_shape + self.event_shape

    @classmethod
    def infer_shapes(cls, **arg_shapes: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Return the batch and event shape of a law with arguments of these shapes."""
        vector = torch.Size(arg_shapes["probs" if "probs" in arg_shapes else "logits"])
        return inferred_batch(cls.arg_constraints, dict(arg_shapes)), vector[-1:]

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same law with its parameters broadcast to ``batch_shape``."""
        batch_shape = torch.Size(batch_shape)
        new = self._get_checked_instance(type(self), _instance)
        for name in ("logits", "probs"):
            if name in self.__dict__:
                setattr(new, name, getattr(self, name).expand(batch_shape + self.event_shape))
        for name in self._plain:
            setattr(new, name, getattr(self, name))
        new.temperature = self.temperature.expand(batch_shape)
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _log_weights(self, sample_shape: Sequence[int]) -> Tensor:
        """Draw log-weights, ``sample_shape + batch_shape + (K,)``, differentiable."""
        return gumbel_log_softmax(self.logits, self.temperature, sample_shape)

    def _broadcast(self, value: Tensor) -> Tensor:
        """Return ``value``, checked, with at least the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        return value.expand(torch.broadcast_shapes(value.shape, self.param_shape))

    def __repr__(self) -> str:
        name = "logits" if "logits" in self.__dict__ else "probs"
        plain = "".join(f"{key}={getattr(self, key)}, " for key in self._plain)
        return (
            f"{type(self).__name__}({plain}temperature: {tuple(self.batch_shape)}, {name}: {tuple(self.param_shape)})"
        )
