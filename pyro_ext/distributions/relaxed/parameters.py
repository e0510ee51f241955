"""The parameters of relaxed distributions: a temperature, and logits or probabilities; their checks and shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_ext.utils.checks import check_positive_tensor
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = [
    "NoClosedForms",
    "as_temperature",
    "broadcast_batch",
    "check_binary",
    "check_categories",
    "given_binary",
    "inferred_batch",
]


class NoClosedForms:
    """Says of moments and entropy that they have no closed form, and what to take; classes with one override it."""

    @property
    def mean(self) -> Tensor:
        """Raise a NotImplementedError."""
        raise self._without("mean", "average samples")

    @property
    def mode(self) -> Tensor:
        """Raise a NotImplementedError."""
        raise self._without("mode", "take the most probable value of probs, or relaxed.log_space(d).mode")

    @property
    def variance(self) -> Tensor:
        """Raise a NotImplementedError."""
        raise self._without("variance", "take that of samples")

    def entropy(self) -> Tensor:
        """Raise a NotImplementedError."""
        instead = "average -log_prob over samples; that of its logarithm is known, relaxed.log_space(d).entropy()"
        raise self._without("entropy", instead)

    def _without(self, what: str, instead: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} has no {what} in closed form: {instead}")


def as_temperature(temperature: Tensor | float, like: Tensor, validate: bool) -> Tensor:
    """Return the temperature in the type and on the device of ``like``.

    Raises:
        ValueError: if it is not a positive finite number or a tensor of such (tensors only if ``validate``).
    """
    if isinstance(temperature, Tensor):
        value = temperature.to(like)
    elif isinstance(temperature, int | float) and not isinstance(temperature, bool):
        on_cpu = torch.tensor(float(temperature), dtype=like.dtype, device="cpu")
        check_positive_tensor("temperature", on_cpu)  # a plain number costs nothing to check, here
        return on_cpu.to(like.device)
    else:
        raise ValueError(f"temperature must be a number or a tensor of shape batch_shape, got {temperature!r}")
    if validate:
        check_positive_tensor("temperature", value)
    return value


def broadcast_batch(temperature: Tensor, name: str, batch_shape: torch.Size) -> torch.Size:
    """Return the batch shape of a distribution whose parameter ``name`` has ``batch_shape``.

    Raises:
        ValueError: if the temperature does not broadcast with it.
    """
    try:
        return broadcast_shapes(temperature.shape, batch_shape)
    except RuntimeError:
        raise ValueError(
            f"temperature of shape {tuple(temperature.shape)} does not broadcast with the batch shape "
            f"{tuple(batch_shape)} of {name}: give one temperature, or one for each element of the batch"
        ) from None


def check_categories(name: str, given: Tensor) -> None:
    """Raise a ValueError where an entry of ``batch_shape + (K,)`` is no (log-)probability, or a row has no mass."""
    given = given.detach()
    nothing = -math.inf if name == "logits" else 0.0
    wrong = given.isnan() | (given == math.inf) | (given < nothing)
    if wrong.any():
        raise ValueError(f"{name} must not hold NaN, inf or negative probabilities, got {float(given[wrong][0])}")
    if not (given > nothing).any(-1).all():
        raise ValueError(f"{name} gives no category a positive probability: every row needs an entry above {nothing}")


def given_binary(logits: Tensor | float | None, probs: Tensor | float | None) -> tuple[str, Tensor]:
    """Return which of ``logits`` and ``probs`` is given and its value, ``batch_shape``.

    Raises:
        ValueError: unless exactly one is given, as a number or a floating point tensor.
    """
    if (logits is None) == (probs is None):
        raise ValueError(f"give one of logits and probs, got {'neither' if logits is None else 'both'}")
    name, given = ("probs", probs) if logits is None else ("logits", logits)
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = torch.tensor(float(given))
    if not isinstance(given, Tensor) or not given.is_floating_point():
        raise ValueError(f"{name} must be a number or a floating point tensor, got {given!r}")
    return name, given


def check_binary(name: str, given: Tensor) -> None:
    """Raise a ValueError where an entry of ``batch_shape`` is no log-odds, or no probability."""
    given = given.detach()
    wrong = given.isnan()
    if name == "probs":
        wrong = wrong | (given < 0) | (given > 1)
    if wrong.any():
        requirement = "not hold NaN" if name == "logits" else "lie in [0, 1]"
        raise ValueError(f"{name} must {requirement}, got {float(given[wrong][0])}")


def inferred_batch(constraints: dict[str, Any], arg_shapes: dict[str, Sequence[int]]) -> torch.Size:
    """Return the batch shape that arguments of these shapes give; those without a constraint play no part."""
    shapes = [
        torch.Size(shape)[: len(shape) - constraints[name].event_dim]
        for name, shape in arg_shapes.items()
        if name in constraints
    ]
    return broadcast_shapes(*shapes)
