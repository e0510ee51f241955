"""Laws of trees: how probable a law finds trees, against how often they came."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyro_ext.plotting.axes import given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["tree_probabilities"]


def tree_probabilities(
    frequency: ArrayLike,
    log_prob: ArrayLike,
    ax: Axes | None = None,
    *,
    seen: ArrayLike | None = None,
    xlabel: str = "frequency",
) -> Axes:
    """Plot the probability of each tree against its frequency, both on logarithmic axes, with the diagonal.

    Args:
        frequency: of the trees, ``(T,)``, positive.
        log_prob: their log-probabilities, ``(T,)``; trees of probability zero are drawn at the lower edge.
        ax: the axes to draw on; new ones if ``None``.
        seen: which trees the law was fitted to, bool ``(T,)``; they get a colour of their own.
        xlabel: what the frequencies are of.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no trees, or the arrays differ in length.

    Example:
        >>> ax = tree_probabilities([0.7, 0.3], [-0.4, -float("inf")])
        >>> ax.get_xscale(), [line.get_label() for line in ax.lines]
        ('log', ['equal', 'probability 0'])
    """
    x, log_y = np.asarray(frequency, dtype=float), np.asarray(log_prob, dtype=float)
    if x.shape != log_y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"frequency and log_prob must hold a value for each tree, got {x.shape} and {log_y.shape}")
    ax = given_or_new(ax, width=5.0, height=4.5)
    y = np.exp(log_y)
    groups = {"": np.ones(len(x), dtype=bool)}
    if seen is not None:
        mask = np.asarray(seen, dtype=bool)
        groups = {"fitted to": mask, "never fitted to": ~mask}
    for label, mask in groups.items():
        positive = mask & (y > 0)
        if positive.any():
            ax.scatter(x[positive], y[positive], s=8, alpha=0.6, linewidths=0, label=label or None)
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, ends, color="black", linewidth=0.8, label="equal")
    if (y == 0).any():
        level = min(x.min(), y[y > 0].min() if (y > 0).any() else x.min()) / 3
        ax.plot(x[y == 0], np.full((y == 0).sum(), level), "x", color="grey", markersize=4, label="probability 0")
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="probability under the network")
    ax.legend(frameon=False)
    return ax
