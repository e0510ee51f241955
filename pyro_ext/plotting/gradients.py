"""Gradients of a network along a line: the curve, its autocorrelation, and correlations by depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.style import finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["autocorrelation_curve", "correlation_by_depth", "gradient_trace"]

_DASHES = ("--", ":", "-.")


def gradient_trace(
    gradients: Mapping[str, Sequence[float] | np.ndarray],
    inputs: Sequence[float] | np.ndarray,
    ax: Axes | None = None,
    *,
    xlabel: str = "input",
) -> Axes:
    """Plot gradients of functions of one variable against the variable.

    Each curve is divided by its largest absolute value, since gradients of deep networks differ by orders of magnitude.

    Args:
        gradients: the gradients by label, each of shape ``(n,)``.
        inputs: the places, shape ``(n,)``.
        ax: the axes to draw on; new ones if ``None``.
        xlabel: the label of the x axis: what the places are.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no curves, or one has another length than ``inputs``.

    Example:
        >>> ax = gradient_trace({"square": [-4.0, 0.0, 4.0]}, [-2.0, 0.0, 2.0])
        >>> ax.lines[0].get_ydata().tolist()
        [-1.0, 0.0, 1.0]
    """
    if not gradients:
        raise ValueError("gradients must hold at least one curve, got none")
    ax = given_or_new(ax)
    places = np.asarray(inputs, dtype=float)
    for label, values in gradients.items():
        curve = np.asarray(values, dtype=float)
        if curve.shape != places.shape:
            raise ValueError(f"gradients[{label!r}] must have shape {places.shape}, that of inputs, got {curve.shape}")
        largest = np.abs(curve).max(initial=0.0)
        ax.plot(places, curve / largest if largest > 0 else curve, label=label or None, linewidth=0.9)
    ax.axhline(0.0, color="black", linewidth=0.6)
    return finish(ax, xlabel, "gradient / largest gradient")


def autocorrelation_curve(curves: Mapping[str, Sequence[float] | np.ndarray], ax: Axes | None = None) -> Axes:
    """Plot autocorrelations against the lag.

    Args:
        curves: the autocorrelations at lags 0, 1, 2, ... by label, each of shape ``(lags,)``, or ``(runs, lags)`` for
            runs that differ by seed: their mean is drawn, over the range they cover.
        ax: the axes to draw on; new ones if ``None``.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no curves, or one has more than two dims.

    Example:
        >>> ax = autocorrelation_curve({"white": [[1.0, 0.1], [1.0, -0.1]], "brown": [1.0, 0.9]})
        >>> [line.get_ydata().tolist() for line in ax.lines[:2]]
        [[1.0, 0.0], [1.0, 0.9]]
    """
    if not curves:
        raise ValueError("curves must hold at least one autocorrelation, got none")
    ax = given_or_new(ax)
    for label, values in curves.items():
        runs = np.atleast_2d(np.asarray(values, dtype=float))
        if runs.ndim != 2:
            raise ValueError(f"curves[{label!r}] must have shape (lags,) or (runs, lags), got {np.shape(values)}")
        lags = np.arange(runs.shape[-1])
        (line,) = ax.plot(lags, runs.mean(0), label=label, marker="o", markersize=3)
        if len(runs) > 1:
            ax.fill_between(lags, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    ax.axhline(0.0, color="black", linewidth=0.6)
    ax.set_ylim(top=1.05)
    ax.locator_params(axis="x", integer=True)
    several = max(len(np.atleast_2d(np.asarray(values))) for values in curves.values()) > 1
    runs_said = "mean and range of runs" if several else ""
    return finish(ax, "lag (points)", "autocorrelation of gradients", legend_title=runs_said)


def correlation_by_depth(
    measured: Mapping[str, Sequence[float] | np.ndarray],
    depths: Sequence[int],
    theory: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot correlations of gradients at unrelated inputs against the depth of the network, on a logarithmic scale.

    Args:
        measured: the correlations by label, each of shape ``(depths,)``; those that are not positive are left out.
        depths: the numbers of layers.
        theory: functions of the depth by label, drawn as dashed lines; none by default.
        ax: the axes to draw on; new ones if ``None``.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if a curve has another length than ``depths``.

    Example:
        >>> ax = correlation_by_depth({"relu": [0.5, 0.26]}, [1, 2], {"2^-L": lambda depth: 0.5**depth})
        >>> [line.get_label() for line in ax.lines]
        ['relu', '2^-L']
    """
    ax = given_or_new(ax)
    places = np.asarray(depths, dtype=float)
    for label, values in measured.items():
        curve = np.asarray(values, dtype=float)
        if curve.shape != places.shape:
            raise ValueError(f"measured[{label!r}] must have one value for each of {len(places)} depths")
        ax.plot(places, np.where(curve > 0, curve, np.nan), marker="o", label=label)
    fine = np.linspace(places.min(), places.max(), 100)
    for at, (label, function) in enumerate((theory or {}).items()):
        ax.plot(fine, function(fine), _DASHES[at % len(_DASHES)], label=label, color="black", linewidth=0.9)
    ax.set_yscale("log")
    ax.set_xticks(places)
    return finish(ax, "layers", "correlation of gradients")
