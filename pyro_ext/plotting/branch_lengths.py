"""Branch lengths of a tree, with how well they are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_ext.plotting.axes import given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["branch_intervals"]


def branch_intervals(
    quantiles: ArrayLike, ax: Axes | None = None, *, labels: Sequence[str] = (), coverage: str = "95 %"
) -> Axes:
    """Plot the median of each branch length with an interval, the longest branch at the top.

    Args:
        quantiles: low end, median and high end of each length, ``(3, E)``.
        ax: the axes to draw on; new ones if ``None``.
        labels: of the branches, ``(E,)``; their numbers if there are none.
        coverage: what the interval holds.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if the shape is another one, or there is another number of labels.

    Example:
        >>> ax = branch_intervals([[0.1, 0.2], [0.2, 0.4], [0.3, 0.7]], labels=["Bos", "Homo"])
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['Homo', 'Bos']
    """
    values = np.asarray(quantiles, dtype=float)
    if values.ndim != 2 or len(values) != 3 or not values.shape[1]:
        raise ValueError(f"quantiles must have shape (3, E), got {values.shape}")
    names = list(labels) if len(labels) else [str(number) for number in range(1, values.shape[1] + 1)]
    if len(names) != values.shape[1]:
        raise ValueError(f"labels must name each of the {values.shape[1]} branches, got {len(names)}")
    order = np.argsort(-values[1], kind="stable")
    low, median, high = values[:, order]
    rows = np.arange(len(order))
    ax = given_or_new(ax, width=9.0, height=1.2 + 0.16 * len(order))
    ax.errorbar(median, rows, xerr=np.stack([median - low, high - median]), fmt="o", markersize=3, linewidth=1)
    ax.set_yticks(rows, [names[place] for place in order], fontsize=7)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlabel(f"branch length (substitutions per site), median and {coverage}")
    return ax
