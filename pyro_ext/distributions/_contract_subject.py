"""What a check of the contract looks at, and how it complains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Coordinates", "Subject", "require", "require_close", "require_equal"]

Coordinates = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From values to free real coordinates and the log-determinant of the map from coordinates to values."""


@dataclass
class Subject:
    """A distribution, ``x`` drawn from it, ``(4,) + batch_shape + event_shape``, and how to test it."""

    d: Any
    parameters: list[Tensor]
    x: Tensor
    num_samples: int
    false_alarm: float
    has_density: bool = True
    coordinates: Coordinates | None = None

    @property
    def batch_shape(self) -> torch.Size:
        """The distribution's batch shape."""
        return torch.Size(self.d.batch_shape)

    @property
    def is_discrete(self) -> bool:
        """Whether the support is finite or countable."""
        return bool(self.d.support.is_discrete)


def require(condition: object, message: str) -> None:
    """Raise an AssertionError unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_equal(found: object, expected: object, what: str) -> None:
    """Raise an AssertionError unless both are equal."""
    require(found == expected, f"{what} is {found}, expected {expected}")


def require_close(found: Tensor, expected: Tensor, what: str) -> None:
    """Raise an AssertionError unless both have one shape and agree to a hundred roundings."""
    require_equal(found.shape, expected.shape, f"the shape of {what}")
    tolerance = 100 * torch.finfo(found.dtype).eps
    close = torch.isclose(found, expected, rtol=tolerance, atol=tolerance)
    require(close.all(), f"{what} is {found[~close][:3]}, expected {expected[~close][:3]}")
