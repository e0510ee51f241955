"""Probabilities of tree topologies, one beside the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyro_ext.plotting.axes import given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_topology_probabilities"]


def plot_topology_probabilities(
    probabilities: Mapping[str, Sequence[float]], ax: Axes | None = None, *, labels: Sequence[str] | None = None
) -> Axes:
    """Plot the probabilities of topologies, a line of markers for each way they were found.

    Args:
        probabilities: name -> one probability for each of T topologies.
        ax: the axes to draw on; new ones if ``None``.
        labels: of the topologies; their numbers, from 1, if ``None``.

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
