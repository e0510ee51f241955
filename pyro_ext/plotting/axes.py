"""The axes a plot draws on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["given_or_new"]


def given_or_new(ax: Axes | None, width: float = 6.0, height: float = 4.0) -> Axes:
    """Return ``ax``, or the only axes of a new figure of ``width`` x ``height`` inches that pyplot knows nothing of.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> ax = given_or_new(None, width=3, height=2)
        >>> ax.figure.get_size_inches().tolist(), given_or_new(ax) is ax
        ([3.0, 2.0], True)
    """
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'pyro-ext[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained").add_subplot()
