"""Estimators side by side: variances of gradients, and estimates of a marginal likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.style import COLOURS, MARKERS, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gradient_variance", "gradient_variance_curve", "plot_evidence"]

_VARIANCE = "log of the variance of the gradient, summed (log nats²)"
_KINDS: dict[str, dict[str, Any]] = {
    "estimate ± 2 standard errors": {"fmt": "o", "color": COLOURS[0]},
    "no standard error": {"fmt": "D", "color": COLOURS[2], "markerfacecolor": "white"},
    "lower bound": {"fmt": ">", "color": COLOURS[1], "markerfacecolor": "white"},
    "score, no estimate": {"fmt": "s", "color": COLOURS[3], "markerfacecolor": "white"},
}
"""How what a value is can be seen."""


class _Estimate(Protocol):
    @property
    def log_evidence(self) -> float: ...

    @property
    def std_error(self) -> float: ...

    @property
    def is_score(self) -> bool: ...


def gradient_variance(
    log_variance: Mapping[str, Mapping[str, float]],
    ax: Axes | None = None,
    *,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    title: str = "",
) -> Axes:
    """Plot gradient variances as dots: a row for every estimator, in it a marker for every group of parameters.

    Args:
        log_variance: estimator -> group of parameters (``"encoder"``, ``"decoder"``) -> the natural logarithm of the
            variance summed over the parameters; minus infinity (an exact gradient) is marked at the left edge.
        ax: the axes to draw on; new ones if ``None``.
        errors: the standard errors of the logarithms in the same way, drawn as bars of two of them.
        title: the title; none if empty.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no estimators.

    Example:
        >>> ax = gradient_variance({"Trace_ELBO": {"encoder": 6.65}, "TraceUnorderedSet_ELBO": {"encoder": 0.17}})
        >>> [float(line.get_xdata()[0]) for line in ax.lines]
        [6.65, 0.17]
    """
    if not log_variance:
        raise ValueError("log_variance must name at least one estimator, got none")
    ax = given_or_new(ax, width=6.5, height=1.3 + 0.42 * len(log_variance))
    groups = list(dict.fromkeys(group for by_group in log_variance.values() for group in by_group))
    exact = False
    for i, group in enumerate(groups):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        label: str | None = group
        for row, (estimator, by_group) in enumerate(log_variance.items()):
            value, place = by_group.get(group, math.nan), row + 0.4 * ((i + 0.5) / len(groups) - 0.5)
            if value == -math.inf:
                where = ax.get_yaxis_transform()  # x in parts of the axes, y in data
                ax.plot(
                    [0.0], [place], marker="<", color=colour, markerfacecolor="white", transform=where, clip_on=False
                )
                exact = True
            elif math.isfinite(value):
                error = 2 * (errors or {}).get(estimator, {}).get(group, 0.0)
                caps = 2 if error else 0
                ax.errorbar(value, place, xerr=error, fmt=marker, color=colour, markersize=5, capsize=caps, label=label)
                label = None
    if exact:
        ax.plot([], [], "<", color="grey", markerfacecolor="white", label="exact: no variance")
    ax.set_yticks(range(len(log_variance)), list(log_variance))
    ax.set_ylim(len(log_variance) - 0.5, -0.5)
    said = "bars: 2 standard errors" if errors else ""
    return finish(ax, _VARIANCE, "", title, loc="upper left", bbox_to_anchor=(1.0, 1.0), legend_title=said)


def gradient_variance_curve(
    log_variance: Mapping[str, Sequence[float] | np.ndarray],
    evaluations: Sequence[float] | np.ndarray,
    ax: Axes | None = None,
    *,
    xlabel: str = "model evaluations",
    title: str = "",
) -> Axes:
    """Plot a line of gradient variances for every estimator against its cost, or against training steps.

    Args:
        log_variance: estimator -> the logarithm of the variance summed over the parameters, shape ``(P,)``; minus
            infinity (an exact gradient) leaves a gap.
        evaluations: the places on the x axis, shape ``(P,)``.
        ax: the axes to draw on; new ones if ``None``.
        xlabel: the label of the x axis, which says what ``evaluations`` are.
        title: the title; none if empty.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if a line has another length than ``evaluations``.

    Example:
        >>> ax = gradient_variance_curve({"TraceLeaveOneOut_ELBO": [-4.9, -5.7, -6.2]}, [2, 3, 4])
        >>> ax.get_xlabel(), len(ax.lines)
        ('model evaluations', 1)
    """
    ax = given_or_new(ax)
    places = np.asarray(evaluations, dtype=float)
    for label, values in log_variance.items():
        heights = np.array(values, dtype=float)
        if heights.shape != places.shape:
            raise ValueError(
                f"log_variance[{label!r}] must have shape {places.shape}, like evaluations; got {heights.shape}"
            )
        heights[~np.isfinite(heights)] = np.nan
        ax.plot(places, heights, marker="o", label=label)
    return finish(ax, xlabel, _VARIANCE, title)


def plot_evidence(
    estimates: Mapping[str, _Estimate],
    ax: Axes | None = None,
    *,
    exact: float | None = None,
    scores: bool = False,
    title: str = "",
) -> Axes:
    """Plot estimates of the log-evidence, one row per method, with bars of two standard errors.

    Lower bounds, scores and values without a standard error have markers of their own, which the legend explains.

    Args:
        estimates: the estimate of each method, by its name, such as ``compare_evidence`` returns.
        ax: the axes to draw on; new ones if ``None``.
        exact: the exact log-evidence where it is known, drawn as a line; ``None`` if it is not.
        scores: whether to show scores among the estimates.
        title: the title; none if empty.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there is nothing to show.

    Example:
        >>> from pyro_ext.inference.evidence import EvidenceEstimate
        >>> estimates = {"bridge": EvidenceEstimate(-3.0, 0.1), "elbo": EvidenceEstimate(-3.2, 0.1)}
        >>> ax = plot_evidence(estimates, exact=-3.05)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['bridge', 'elbo']
    """
    shown = {name: estimate for name, estimate in estimates.items() if scores or not estimate.is_score}
    if not shown:
        raise ValueError("estimates must hold at least one estimate that is not a score, or pass scores=True")
    ax = given_or_new(ax, width=7.5, height=1.2 + 0.24 * len(shown))
    named: set[str] = set()
    for row, estimate in enumerate(shown.values()):
        kind = _kind(estimate)
        error = 2 * estimate.std_error if math.isfinite(estimate.std_error) else 0.0
        ax.errorbar(
            estimate.log_evidence,
            row,
            xerr=error,
            capsize=3 if error else 0,
            markersize=6,
            label=None if kind in named else kind,
            **_KINDS[kind],
        )
        named.add(kind)
    ax.set_yticks(range(len(shown)), list(shown))
    ax.invert_yaxis()
    if exact is not None:
        ax.axvline(exact, color="black", linestyle="-", linewidth=0.8, label="exact", zorder=1)
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    finish(ax, "log evidence (nats)", "", title, **place)
    if ax.get_legend() is None:  # what bars are has to be said also where there is one kind alone
        ax.legend(frameon=False, fontsize=8, **place)
    return ax


def _kind(estimate: _Estimate) -> str:
    if estimate.is_score:
        return "score, no estimate"
    if getattr(estimate, "is_lower_bound", False):
        return "lower bound"
    return "no standard error" if math.isnan(estimate.std_error) else "estimate ± 2 standard errors"
