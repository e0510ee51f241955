"""Logarithms of masses where some of the masses, or all of them, are zero."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["LOG_NOTHING", "floored", "is_nothing", "log_total", "unfloored"]

# Stands for log 0: finite, so that neither values nor gradients meet inf - inf, and far below any real log-mass.
LOG_NOTHING = -1e30


def floored(log_mass: Tensor) -> Tensor:
    """Return ``log_mass`` with :data:`LOG_NOTHING` in place of -inf."""
    return log_mass.clamp_min(LOG_NOTHING)


def unfloored(log_mass: Tensor) -> Tensor:
    """Return ``log_mass`` with -inf where it was computed from :data:`LOG_NOTHING`; gradients are 0 there."""
    return log_mass.masked_fill(is_nothing(log_mass), -math.inf)


def is_nothing(log_mass: Tensor) -> Tensor:
    """Return where floored log-masses, or the logs of sums and products of a few of them, stand for zero."""
    return log_mass < 0.1 * LOG_NOTHING


def log_total(log_mass: Tensor) -> Tensor:
    """Return ``logsumexp`` over the last dim; its gradient is 0, not NaN, where all masses are zero."""
    return unfloored(floored(log_mass).logsumexp(-1))
