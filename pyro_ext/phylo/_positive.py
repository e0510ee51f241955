"""The check that parameters of models are positive."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_positive"]


def check_positive(name: str, value: Tensor) -> None:
    """Raise a ValueError naming the argument and a value in it that is not positive and finite, if there is one."""
    detached = value.detach()
    wrong = ~(detached > 0) | detached.isinf()
    if wrong.any():
        raise ValueError(f"{name} must be positive and finite, got {detached[wrong][0]:g}")
