"""Sums of masses in log space where some, or all, masses are zero."""

from __future__ import annotations

import math

from torch import Tensor

# Stands for log 0: finite, so that neither values nor gradients meet inf - inf, and far below any real log-mass.
LOG_NOTHING = -1e30


def floored(log_mass: Tensor) -> Tensor:
    """Return ``log_mass`` with :data:`LOG_NOTHING` for -inf."""
    return log_mass.clamp_min(LOG_NOTHING)


def unfloored(log_mass: Tensor) -> Tensor:
    """Return ``log_mass`` with -inf for whatever came of :data:`LOG_NOTHING`, cut off from gradients there."""
    return log_mass.masked_fill(is_nothing(log_mass), -math.inf)


def is_nothing(log_mass: Tensor) -> Tensor:
    """Tell where floored log-masses, or sums and products of a few of them, stand for zero."""
    return log_mass < 0.1 * LOG_NOTHING


def log_total(log_mass: Tensor) -> Tensor:
    """Return ``logsumexp`` over the last dim; its gradient is 0, not NaN, where all masses are zero."""
    return unfloored(floored(log_mass).logsumexp(-1))
