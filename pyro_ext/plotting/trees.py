"""Plots about trees: probabilities of topologies, and branch lengths with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_ext.plotting.axes import given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["branch_intervals", "plot_topology_probabilities", "tree_probabilities"]

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

    Some trees may have probabilities as small as 1e-200. So that the others can be told apart, trees of less than a
    ten thousandth of the least frequency are drawn at the lower edge, those of probability zero as crosses.

    Args:
        frequency: the frequency of each tree, ``(T,)``; trees of frequency zero are left out.
        log_prob: the log-probability of each tree, ``(T,)``.
        ax: the axes to draw on; new ones if ``None``.
        seen: which trees the distribution was fitted to, bool ``(T,)``; they get a colour of their own.
        xlabel: the label of the x axis, which says what the frequencies are of.

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


def plot_topology_probabilities(
    probabilities: Mapping[str, Sequence[float]], ax: Axes | None = None, *, labels: Sequence[str] | None = None
) -> Axes:
    """Plot the probabilities of topologies, a line of markers for each method that estimated them.

    Args:
        probabilities: for each method, by its name, one probability for each of T topologies.
        ax: the axes to draw on; new ones if ``None``.
        labels: the labels of the topologies; their numbers, from 1, if ``None``.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there is nothing to show, or the numbers of topologies differ.

    Example:
        >>> ax = plot_topology_probabilities({"bridge": [0.7, 0.3], "map": [0.6, 0.4]})
        >>> [label.get_text() for label in ax.get_legend().get_texts()]
        ['bridge', 'map']
    """
    counts = {len(values) for values in probabilities.values()} | ({len(labels)} if labels is not None else set())
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"probabilities must be those of the same topologies, got {sorted(counts)} of them")
    (count,) = counts
    ax = given_or_new(ax, width=2.5 + 0.4 * min(count, 20), height=3.5)
    markers = "osD^v<>pP*X"
    for i, (name, values) in enumerate(probabilities.items()):
        ax.plot(
            range(1, count + 1),
            list(values),
            color=f"C{i % 10}",
            marker=markers[i % len(markers)],
            linewidth=0.8,
            alpha=0.8,
            label=name,
        )
    if count <= 20 or labels is not None:
        ax.set_xticks(range(1, count + 1), list(labels) if labels is not None else None)
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel("topology")
    ax.set_ylabel("posterior probability")
    ax.legend(frameon=False, fontsize="small")
    return ax


def branch_intervals(
    quantiles: ArrayLike, ax: Axes | None = None, *, labels: Sequence[str] = (), coverage: str = "95 %"
) -> Axes:
    """Plot the median of each branch length with an interval, the longest branch at the top.

    Args:
        quantiles: low end, median and high end of each branch length, ``(3, E)``.
        ax: the axes to draw on; new ones if ``None``.
        labels: the labels of the branches, ``(E,)``; their numbers if there are none.
        coverage: the share of the probability that the interval holds, for the label of the x axis.

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


def _draw_at_edge(ax: Axes, x: np.ndarray, log_y: np.ndarray, lowest: float, least: float) -> None:
    """Draw the trees of less than ``least``, below the lowest of the others."""
    zero = log_y == -np.inf
    below = ~zero & (log_y < math.log(least))
    level = (least if below.any() else lowest) / 3
    for mask, marker, label in ((below, "v", f"below {least:.0e}"), (zero, "x", "probability 0")):
        if mask.any():
            ax.plot(x[mask], np.full(mask.sum(), level), marker, color="grey", markersize=4, alpha=0.6, label=label)
