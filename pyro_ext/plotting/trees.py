"""Laws of trees: how probable a law finds trees, against how often they came."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyro_ext.plotting.axes import given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["tree_probabilities"]

_DECADES = 4  # shown below the least frequency


def tree_probabilities(
    frequency: ArrayLike,
    log_prob: ArrayLike,
    ax: Axes | None = None,
    *,
    seen: ArrayLike | None = None,
    xlabel: str = "frequency",
) -> Axes:
    """Plot the probability of each tree against its frequency, both on logarithmic axes, with the diagonal.

    A law may find some trees as improbable as 1e-200. So that the others remain to be told apart, trees of less than
    a ten thousandth of the least frequency are drawn at the lower edge, those of probability zero as crosses.

    Args:
        frequency: of the trees, ``(T,)``; those of zero are left out.
        log_prob: their log-probabilities, ``(T,)``.
        ax: the axes to draw on; new ones if ``None``.
        seen: which trees the law was fitted to, bool ``(T,)``; they get a colour of their own.
        xlabel: what the frequencies are of.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no trees, the arrays differ in length, or no frequency is positive.

    Example:
        >>> ax = tree_probabilities([0.7, 0.3], [-0.4, -float("inf")])
        >>> ax.get_xscale(), [line.get_label() for line in ax.lines]
        ('log', ['equal', 'probability 0'])
    """
    x, log_y = np.asarray(frequency, dtype=float), np.asarray(log_prob, dtype=float)
    if x.shape != log_y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"frequency and log_prob must hold a value for each tree, got {x.shape} and {log_y.shape}")
    came = x > 0
    if not came.any():
        raise ValueError("frequency holds no positive number: give the shares of trees in a sample")
    x, log_y = x[came], log_y[came]
    ax = given_or_new(ax, width=5.0, height=4.5)
    least = 10.0 ** (math.floor(math.log10(x.min())) - _DECADES)
    shown = log_y >= math.log(least)
    groups = {"": np.ones(len(x), dtype=bool)}
    if seen is not None:
        mask = np.asarray(seen, dtype=bool)[came]
        groups = {"fitted to": mask, "never fitted to": ~mask}
    for label, mask in groups.items():
        if (mask & shown).any():
            y = np.exp(log_y[mask & shown])
            ax.scatter(x[mask & shown], y, s=8, alpha=0.6, linewidths=0, label=label or None)
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, ends, color="black", linewidth=0.8, label="equal")
    _draw_at_edge(ax, x, log_y, np.exp(log_y[shown]).min(initial=x.min()), least)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="probability under the network")
    ax.legend(frameon=False)
    return ax


def _draw_at_edge(ax: Axes, x: np.ndarray, log_y: np.ndarray, lowest: float, least: float) -> None:
    """Draw the trees of less than ``least``, below the lowest of the others."""
    zero = log_y == -np.inf
    below = ~zero & (log_y < math.log(least))
    level = (least if below.any() else lowest) / 3
    for mask, marker, label in ((below, "v", f"below {least:.0e}"), (zero, "x", "probability 0")):
        if mask.any():
            ax.plot(x[mask], np.full(mask.sum(), level), marker, color="grey", markersize=4, alpha=0.6, label=label)
