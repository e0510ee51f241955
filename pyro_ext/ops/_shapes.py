"""Checks of shapes shared by the functions on square matrices and on sets; messages say what to change."""

from __future__ import annotations

from torch import Tensor

from pyro_ext.utils.checks import positive_int

__all__ = ["check_members", "check_set_size", "check_square"]


def check_square(name: str, value: Tensor, least: int = 1) -> None:
    """Raise a ValueError unless ``value`` is ``batch_shape + (N, N)`` with N of at least ``least``."""
    if value.dim() < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < least:
        raise ValueError(
            f"{name} must have shape batch_shape + (N, N) with N at least {least}, got {tuple(value.shape)}: "
            "give square matrices in the last two dims"
        )


def check_set_size(k: int, log_probs: Tensor) -> None:
    """Raise a ValueError unless ``log_probs`` has categories and ``k`` is an integer in ``1..K``."""
    if log_probs.dim() < 1:
        raise ValueError("log_probs must have shape batch_shape + (K,), got a scalar")
    positive_int("k", k)
    size = log_probs.shape[-1]
    if k > size:
        raise ValueError(f"k={k} exceeds the {size} categories of log_probs: choose k at most {size}")


def check_members(log_p: Tensor, log_rest: Tensor) -> None:
    """Raise a ValueError unless ``log_p`` is ``batch_shape + (k,)`` and ``log_rest`` is ``batch_shape``."""
    if log_p.dim() < 1 or log_p.shape[-1] < 1:
        raise ValueError(f"log_p must have shape batch_shape + (k,) with k at least 1, got {tuple(log_p.shape)}")
    if log_rest.shape != log_p.shape[:-1]:
        raise ValueError(
            f"log_rest has shape {tuple(log_rest.shape)} but log_p {tuple(log_p.shape)}: "
            f"give one remaining mass per set, of shape {tuple(log_p.shape[:-1])}"
        )
