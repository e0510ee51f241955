"""The rate of the exponential prior of branch lengths."""

from __future__ import annotations

__all__ = ["check_branch_rate"]

# Means of lengths from a billionth to a million substitutions per site: beyond, floating point has its own opinions.
_LEAST, _MOST = 1e-6, 1e9


def check_branch_rate(branch_rate: float) -> None:
    """Raise ValueError unless there can be branches of the mean length ``1 / branch_rate``.

    >>> check_branch_rate(10.0)
    """
    if not _LEAST <= branch_rate <= _MOST:
        raise ValueError(
            f"branch_rate must lie between {_LEAST:g} and {_MOST:g}, as branches have 1 / branch_rate substitutions "
            f"per site on average, got {branch_rate!r}"
        )
