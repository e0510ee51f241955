"""Curves of losses by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.style import finish, integer_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["loss_curve"]


def loss_curve(
    history: Mapping[str, Sequence[float] | np.ndarray] | Sequence[float] | np.ndarray,
    ax: Axes | None = None,
    *,
    epochs: Sequence[float] | np.ndarray | None = None,
    ylabel: str = "−ELBO per data point (nats)",
    xlabel: str = "epoch",
    title: str = "",
) -> Axes:
    """Plot losses by epoch, whose ticks are whole numbers.

    Args:
        history: the values of one curve, or the curves by label; each of shape ``(epochs,)``, or
            ``(runs, epochs)`` for runs that differ by seed: their mean is drawn, over the range they
            cover.
        ax: the axes to draw on; new ones if ``None``.
        epochs: the epochs of the values, on the x axis; 1, 2, 3, ... if ``None``.
        ylabel: the label of the y axis: what is plotted, and its unit.
        xlabel: the label of the x axis, if it shows something else than epochs.
        title: the title; none if empty.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if a curve has more than two dims, or another length than ``epochs``.

    Example:
        >>> ax = loss_curve({"train": [30.0, 25.0], "valid": [31.0, 26.5]})
        >>> [line.get_ydata().tolist() for line in ax.lines]
        [[30.0, 25.0], [31.0, 26.5]]
    """
    ax = given_or_new(ax)
    most = 1
    curves = history if isinstance(history, Mapping) else {"": history}
    for label, values in curves.items():
        runs = np.atleast_2d(np.asarray(values, dtype=float))
        places = np.arange(1, runs.shape[-1] + 1) if epochs is None else np.asarray(epochs, dtype=float)
        if runs.ndim != 2 or places.shape != runs.shape[1:]:
            raise ValueError(
                f"history[{label!r}] must have shape (epochs,) or (runs, epochs) with {len(places)} epochs, "
                f"got {np.shape(values)}"
            )
        (line,) = ax.plot(places, runs.mean(0), label=label or None, marker="" if len(places) > 1 else "o")
        if len(runs) > 1:
            most = max(most, len(runs))
            ax.fill_between(places, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.25, linewidth=0)
    runs_said = f"mean and range of {most} runs" if most > 1 else ""
    return finish(integer_ticks(ax), xlabel, ylabel, title, legend_title=runs_said)
