"""Estimators side by side: variances of gradients, and estimates of a marginal likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pyro_ext.plotting.axes import given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gradient_variance", "gradient_variance_curve", "plot_evidence"]

_YLABEL = "log total gradient variance"


class _Estimate(Protocol):
    @property
    def log_evidence(self) -> float: ...

    @property
    def std_error(self) -> float: ...

    @property
    def is_score(self) -> bool: ...


def gradient_variance(log_variance: Mapping[str, Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Plot gradient variances as bars: a group for every estimator, in it a bar for every group of parameters.

    Args:
        log_variance: estimator -> group of parameters (``"encoder"``, ``"decoder"``) -> the logarithm of the
            variance summed over the parameters; minus infinity (an exact gradient) is left out.
        ax: the axes to draw on; new ones if ``None``.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no estimators.

    Example:
        >>> ax = gradient_variance({"Trace_ELBO": {"encoder": 6.65}, "TraceUnorderedSet_ELBO": {"encoder": 0.17}})
        >>> [float(bar.get_height()) for bar in ax.patches]
        [6.65, 0.17]
    """
    if not log_variance:
        raise ValueError("log_variance must name at least one estimator, got none")
    ax = given_or_new(ax, width=2.0 + 1.2 * len(log_variance))
    groups = list(dict.fromkeys(group for by_group in log_variance.values() for group in by_group))
    width = 0.8 / max(len(groups), 1)
    centres = np.arange(len(log_variance))
    for i, group in enumerate(groups):
        heights = np.array([by_group.get(group, np.nan) for by_group in log_variance.values()], dtype=float)
        heights[~np.isfinite(heights)] = np.nan
        ax.bar(centres + (i - (len(groups) - 1) / 2) * width, heights, width, label=group)
    ax.set_xticks(centres, list(log_variance), rotation=20, ha="right")
    ax.axhline(0.0, color="black", linewidth=0.6)
    ax.set_ylabel(_YLABEL)
    ax.legend(frameon=False)
    return ax


def gradient_variance_curve(
    log_variance: Mapping[str, Sequence[float] | np.ndarray],
    evaluations: Sequence[float] | np.ndarray,
    ax: Axes | None = None,
    *,
    xlabel: str = "model evaluations",
) -> Axes:
    """Plot a line of gradient variances for every estimator against its cost, or against training steps.

    Args:
        log_variance: estimator -> the logarithm of the variance summed over the parameters, shape ``(P,)``; minus
            infinity (an exact gradient) leaves a gap.
        evaluations: the places on the x axis, shape ``(P,)``.
        ax: the axes to draw on; new ones if ``None``.
        xlabel: the label of the x axis, which says what ``evaluations`` are.

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
    ax.set_xlabel(xlabel)
    ax.set_ylabel(_YLABEL)
    ax.legend(frameon=False)
    return ax


def plot_evidence(
    estimates: Mapping[str, _Estimate], ax: Axes | None = None, *, exact: float | None = None, scores: bool = False
) -> Axes:
    """Plot estimates of the log-evidence, one line per method, with bars of two standard errors.

    Args:
        estimates: the estimate of each method, by its name, such as ``compare_evidence`` returns.
        ax: the axes to draw on; new ones if ``None``.
        exact: the exact log-evidence where it is known, drawn as a line; ``None`` if it is not.
        scores: whether to show scores, hollow, among the estimates.

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
    ax = given_or_new(ax, width=6.0, height=1.0 + 0.28 * len(shown))
    for row, estimate in enumerate(shown.values()):
        error = 0.0 if math.isnan(estimate.std_error) else 2 * estimate.std_error
        face = "none" if estimate.is_score else "C0"
        ax.errorbar(estimate.log_evidence, row, xerr=error, fmt="o", color="C0", markerfacecolor=face, capsize=3)
    ax.set_yticks(range(len(shown)), list(shown))
    ax.invert_yaxis()
    if exact is not None:
        ax.axvline(exact, color="black", linewidth=0.8, label="exact")
        ax.legend(frameon=False)
    ax.set_xlabel("log evidence (nats)")
    return ax
