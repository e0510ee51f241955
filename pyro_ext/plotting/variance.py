"""Gradient estimators side by side by the variance of their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_ext.plotting.axes import given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gradient_variance", "gradient_variance_curve"]

_YLABEL = "log total gradient variance"


def gradient_variance(log_variance: Mapping[str, Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Plot grouped bars: a group for every estimator, in it a bar for every group of parameters.

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
    """Plot a line for every estimator against what it costs, or against training steps.

    Args:
        log_variance: estimator -> the logarithm of the variance summed over the parameters, shape ``(P,)``; minus
            infinity (an exact gradient) leaves a gap.
        evaluations: the places on the x axis, shape ``(P,)``.
        ax: the axes to draw on; new ones if ``None``.
        xlabel: what ``evaluations`` are.

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
