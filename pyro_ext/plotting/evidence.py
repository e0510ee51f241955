"""Estimates of a marginal likelihood by method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from pyro_ext.plotting.axes import given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_evidence"]


class _Estimate(Protocol):
    @property
    def log_evidence(self) -> float: ...

    @property
    def std_error(self) -> float: ...

    @property
    def is_score(self) -> bool: ...


def plot_evidence(
    estimates: Mapping[str, _Estimate], ax: Axes | None = None, *, exact: float | None = None, scores: bool = False
) -> Axes:
    """Plot estimates of the log-evidence, one line per method, with bars of two standard errors.

    Args:
        estimates: method -> estimate, such as ``compare_evidence`` returns.
        ax: the axes to draw on; new ones if ``None``.
        exact: the log-evidence where it is known, drawn as a line.
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
    shown = {name: found for name, found in estimates.items() if scores or not found.is_score}
    if not shown:
        raise ValueError("estimates must hold at least one estimate that is not a score, or pass scores=True")
    ax = given_or_new(ax, width=6.0, height=1.0 + 0.28 * len(shown))
    for row, found in enumerate(shown.values()):
        error = 0.0 if math.isnan(found.std_error) else 2 * found.std_error
        face = "none" if found.is_score else "C0"
        ax.errorbar(found.log_evidence, row, xerr=error, fmt="o", color="C0", markerfacecolor=face, capsize=3)
    ax.set_yticks(range(len(shown)), list(shown))
    ax.invert_yaxis()
    if exact is not None:
        ax.axvline(exact, color="black", linewidth=0.8, label="exact")
        ax.legend(frameon=False)
    ax.set_xlabel("log evidence (nats)")
    return ax
