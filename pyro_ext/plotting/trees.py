"""Plots about trees: probabilities of topologies, and branch lengths with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.style import COLOURS, MARKERS, finish, log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["branch_intervals", "plot_topology_probabilities", "probability_ratios", "tree_probabilities"]

_DECADES = 4  # shown below the least frequency


def tree_probabilities(
    frequency: ArrayLike,
    log_prob: ArrayLike,
    ax: Axes | None = None,
    *,
    seen: ArrayLike | None = None,
    xlabel: str = "frequency",
    title: str = "",
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
        title: the title; none if empty.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no trees, the arrays differ in length, or no frequency is positive.

    Example:
        >>> ax = tree_probabilities([0.7, 0.3], [-0.4, -float("inf")])
        >>> ax.get_xscale(), [line.get_label() for line in ax.lines]
        ('log', ['equal', 'probability 0, at the edge'])
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
            colour, marker = (COLOURS[1], "D") if label.startswith("never") else (COLOURS[0], "o")
            size = min(36.0, max(9.0, 3000 / len(x)))
            ax.scatter(x[mask & shown], y, s=size, marker=marker, color=colour, alpha=0.55, label=label or "trees")
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, ends, color="black", linestyle="-", linewidth=0.8, label="equal", zorder=1)
    _draw_at_edge(ax, x, log_y, np.exp(log_y[shown]).min(initial=x.min()), least)
    log_ticks(ax, x.min(), x.max(), "x")
    low = (np.exp(log_y[shown]).min(initial=x.min()), np.exp(log_y[shown]).max(initial=x.max()))
    log_ticks(ax, low[0] if shown.all() else low[0] / 10, low[1], "y")
    return finish(ax, xlabel, "probability under the network", title)


def probability_ratios(
    frequency: ArrayLike,
    log_probs: Mapping[str, ArrayLike],
    ax: Axes | None = None,
    *,
    xlabel: str = "frequency in the reference sample",
    title: str = "",
) -> Axes:
    """Plot how far estimated probabilities of trees are from their frequencies in a reference sample, by frequency.

    A point is a tree, above the line if its estimate is too large. The thick lines are medians of the trees of about
    the same frequency, trees of estimate zero included; those are drawn as crosses at the lower edge.

    Args:
        frequency: the frequency of each tree in the reference sample, ``(T,)``; trees of frequency zero are left out.
        log_probs: for each distribution, by its name, the log-probability of each tree, ``(T,)``.
        ax: the axes to draw on; new ones if ``None``.
        xlabel: the label of the x axis, which says what the frequencies are of.
        title: the title; none if empty.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no trees, the arrays differ in length, or no frequency is positive.

    References:
        | Generalizing tree probability estimation via Bayesian networks (Zhang & Matsen, 2018)
        | https://arxiv.org/abs/1805.07834

    Example:
        >>> log_probs = {"network": [-0.4, -1.1], "sample": [-0.2, -float("inf")]}
        >>> ax = probability_ratios([0.7, 0.3], log_probs)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['network', 'sample', 'sample: probability 0']
    """
    x = np.asarray(frequency, dtype=float)
    came = x > 0
    if x.ndim != 1 or not came.any() or not log_probs:
        raise ValueError(f"frequency must hold a positive number for some trees, got {x}, and log_probs a distribution")
    ratios = {}
    for name, values in log_probs.items():
        log_y = np.asarray(values, dtype=float)
        if log_y.shape != x.shape:
            raise ValueError(f"log_probs[{name!r}] must hold a value for each of {x.shape} trees, got {log_y.shape}")
        ratios[name] = log_y[came] - np.log(x[came])
    x = x[came]
    ax = given_or_new(ax, width=6.0, height=4.0)
    finite = np.concatenate([ratio[ratio > -np.inf] for ratio in ratios.values()])
    low, high = (float(f(finite, initial=0.0)) for f in (np.min, np.max))
    low = max(low, -math.log(10) * (_DECADES + 4))
    edge = low - 0.08 * (high - low + 1)
    ax.axhline(1.0, color="black", linewidth=0.8, zorder=1)
    for number, (name, ratio) in enumerate(ratios.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        shown = ratio >= low
        size = min(30.0, max(6.0, 2000 / len(x)))
        ax.scatter(x[shown], np.exp(ratio[shown]), s=size, marker=marker, color=colour, alpha=0.5, label=name)
        if not shown.all():
            place = np.full((~shown).sum(), math.exp(edge - 0.05 * number * (high - low + 1)))
            below = "probability 0" if (ratio[~shown] == -np.inf).all() else f"below {math.exp(low):.0e}"
            label = f"{name}: {below}"
            ax.plot(x[~shown], place, "x", color=colour, linestyle="none", markersize=4, label=label)
        centres, medians = _medians(x, np.maximum(ratio, edge))
        if len(centres) > 1:
            ax.plot(centres, np.exp(medians), color=colour, linewidth=2.0)
    log_ticks(ax, x.min(), x.max(), "x")
    log_ticks(ax, math.exp(low), math.exp(high), "y")
    return finish(ax, xlabel, "estimated probability / frequency", title)


def _medians(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return medians of y, and where they are, for about four groups of x in each decade; none of few trees."""
    group = np.floor(4 * np.log10(x)).astype(int)
    numbers = [number for number in np.unique(group) if (group == number).sum() >= 5]
    centres = [np.exp(np.log(x[group == number]).mean()) for number in numbers]
    return np.array(centres), np.array([np.median(y[group == number]) for number in numbers])


def plot_topology_probabilities(
    probabilities: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
    *,
    labels: Sequence[str] | None = None,
    errors: Mapping[str, Sequence[float]] | None = None,
    remarks: Mapping[str, str] | None = None,
    key: Sequence[str] = (),
    title: str = "",
) -> Axes:
    """Plot the probabilities of topologies, in a column for each topology a marker for each method.

    Args:
        probabilities: for each method, by its name, one probability for each of T topologies.
        ax: the axes to draw on; new ones if ``None``.
        labels: the labels of the topologies; their numbers, from 1, if ``None``.
        errors: standard errors of the probabilities of some methods, drawn as bars of two of them.
        remarks: what a reader should know of some methods, such as "from a lower bound"; their markers are hollow.
        key: what the topologies are, such as their Newick text, written below the axes.
        title: the title; none if empty.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there is nothing to show, the numbers of topologies differ, or errors are of another method.

    Example:
        >>> ax = plot_topology_probabilities({"bridge": [0.7, 0.3], "map": [0.6, 0.4]}, remarks={"map": "a mode"})
        >>> [label.get_text() for label in ax.get_legend().get_texts()]
        ['bridge', 'map (a mode)']
    """
    errors, remarks = errors or {}, remarks or {}
    counts = {len(values) for values in [*probabilities.values(), *errors.values()]}
    counts |= {len(labels)} if labels is not None else set()
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"probabilities must be those of the same topologies, got {sorted(counts)} of them")
    if not errors.keys() <= probabilities.keys():
        raise ValueError(f"errors must be those of methods in probabilities, got {', '.join(errors)}")
    (count,) = counts
    spread = 0.7 if len(probabilities) > 1 else 0.0
    ax = given_or_new(ax, width=min(3.5 + 0.35 * count * len(probabilities) ** 0.5, 8.5), height=3.5 + 0.15 * len(key))
    places = np.arange(1, count + 1)
    for place in places[::2] if count > 1 else ():
        ax.axvspan(place - 0.5, place + 0.5, color="#f4f4f4", linewidth=0, zorder=0)
    for i, (name, values) in enumerate(probabilities.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        ax.errorbar(
            places + spread * ((i + 0.5) / len(probabilities) - 0.5),
            list(values),
            yerr=2 * np.asarray(errors[name]) if name in errors else None,
            fmt=marker,
            color=colour,
            markerfacecolor="white" if name in remarks else colour,
            markersize=5,
            capsize=2,
            linewidth=1,
            clip_on=False,
            label=f"{name} ({remarks[name]})" if name in remarks else name,
        )
    if count <= 20 or labels is not None:
        ax.set_xticks(places, list(labels) if labels is not None else [str(place) for place in places])
    ax.grid(False, axis="x")
    ax.set_xlim(0.5, count + 0.5)
    ax.set_ylim(bottom=0.0)
    said = "bars: 2 standard errors" if errors else ""
    many: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(probabilities) > 2 else {}
    finish(ax, "topology" if count > 20 or labels is not None else "number of the topology", "probability", title)
    if key:
        ax.set_xlabel("\n".join([ax.get_xlabel(), *key]), fontsize=8)
    return finish(ax, legend_title=said, **many)


def branch_intervals(
    quantiles: ArrayLike, ax: Axes | None = None, *, labels: Sequence[str] = (), coverage: str = "95 %"
) -> Axes:
    """Plot the median of each branch length with an interval, the longest branch at the top.

    Args:
        quantiles: low end, median and high end of each branch length, ``(3, E)``.
        ax: the axes to draw on; new ones if ``None``.
        labels: the labels of the branches, ``(E,)``; their numbers if there are none.
        coverage: the share of the probability that the interval holds, for the title.

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
    ax = given_or_new(ax, width=7.0, height=1.4 + 0.18 * len(order))
    bars = np.stack([median - low, high - median])
    ax.errorbar(median, rows, xerr=bars, fmt="o", color=COLOURS[0], markersize=4, linewidth=1, capsize=2)
    ax.set_yticks(rows, [names[place] for place in order], fontsize=7)
    ax.invert_yaxis()
    log_ticks(ax, low.min(), high.max(), "x")
    title = f"dots: medians; bars: {coverage} of the probability"
    return finish(ax, "branch length (substitutions per site)", "taxa on the smaller side of the branch", title)


def _draw_at_edge(ax: Axes, x: np.ndarray, log_y: np.ndarray, lowest: float, least: float) -> None:
    """Draw the trees of less than ``least``, below the lowest of the others."""
    zero = log_y == -np.inf
    below = ~zero & (log_y < math.log(least))
    level = (least if below.any() else lowest) / 3
    for mask, marker, place, label in (
        (below, "v", level, f"below {least:.0e}, at the edge"),
        (zero, "x", level / 2 if below.any() else level, "probability 0, at the edge"),
    ):
        if mask.any():
            ax.plot(
                x[mask],
                np.full(mask.sum(), place),
                marker,
                color="#555555",
                markersize=6,
                linestyle="none",
                label=label,
            )
