"""Checks of square matrices, refused at the door with the remedy."""

from __future__ import annotations

from torch import Tensor


def check_square(name: str, value: Tensor, least: int = 1) -> None:
    """Raise a ValueError unless ``value`` is ``batch_shape + (N, N)`` with N of at least ``least``."""
    if value.dim() < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < least:
        raise ValueError(
            f"{name} must have shape batch_shape + (N, N) with N at least {least}, got {tuple(value.shape)}: "
            "give square matrices in the last two dims"
        )
