"""Checks shared by the functions on sets: sizes and shapes are refused at the door, with the remedy."""

from __future__ import annotations

from torch import Tensor


def check_positive(name: str, value: int) -> None:
    """Raise a ValueError naming the argument unless ``value`` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_set_size(k: int, log_probs: Tensor) -> None:
    """Raise a ValueError unless ``log_probs`` has categories and ``k`` is an integer in ``1..K``."""
    if log_probs.dim() < 1:
        raise ValueError("log_probs must have shape batch_shape + (K,), got a scalar")
    check_positive("k", k)
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
