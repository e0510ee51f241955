"""Mutation matrices as images, with their conflicts, and the trees of clones that matrices without conflicts have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import networkx as nx
import torch
from torch import Tensor

from pyro_ext.ops.mutations import MISSING, conflicting_pairs, fill_missing
from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.style import COLOURS, finish
from pyro_ext.utils.checks import positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["clone_tree", "mutation_matrices"]

_COLOURS = ("#e8edf3", "#1f4e8c", "#ffffff", "#c9c9c9")  # absent, present, background, missing
_BACKGROUND = 2
_GAP = 2  # entries between matrices, with room for marks
_MOST_NAMES = 40  # of cells or mutations that are written at the axes


def mutation_matrices(
    matrices: Tensor,
    ax: Axes | None = None,
    *,
    titles: Sequence[str] = (),
    columns: int | None = None,
    cells: Sequence[str] = (),
    mutations: Sequence[str] = (),
) -> Axes:
    """Draw mutation matrices, a row for each cell: dark where it has a mutation, grey where that was not observed.

    Triangles stand above mutations that are in conflict with another one; missing entries count as 0 for that.

    Args:
        matrices: entries 0, 1 and 3 (missing), ``(N, n, m)``, or one matrix ``(n, m)``.
        ax: the axes to draw on; new ones if ``None``.
        titles: what is written above the matrices, from the first one on.
        columns: the number of matrices in a row; about the square root of N if ``None``.
        cells: the names of cells, for one matrix; up to 40 are written.
        mutations: the names of mutations, for one matrix; up to 40 are written.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if the shape is another one, there are no entries, or ``columns`` is not positive.

    Example:
        >>> ax = mutation_matrices(torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 3]]), titles=["a patient"])
        >>> ax.images[0].get_array().shape, len(ax.collections[0].get_offsets())
        ((5, 5), 2)
    """
    tiles = matrices.detach().cpu()
    tiles = tiles.unsqueeze(0) if tiles.dim() == 2 else tiles
    if tiles.dim() != 3 or tiles.numel() == 0:
        raise ValueError(f"matrices must have shape (N, n, m) or (n, m) with entries, got {tuple(matrices.shape)}")
    number, n, m = tiles.shape
    across = min(number, math.ceil(math.sqrt(number)) if columns is None else positive_int("columns", columns))
    down = math.ceil(number / across)
    canvas = torch.full((down * (n + _GAP), across * (m + _GAP)), _BACKGROUND)
    corners = [(_GAP + (k // across) * (n + _GAP), 1 + (k % across) * (m + _GAP)) for k in range(number)]
    for tile, (top, left) in zip(tiles, corners, strict=True):
        canvas[top : top + n, left : left + m] = tile
    scale = max(0.12, 1.3 / (m + _GAP)) if number > 1 else min(0.22, 12 / max(n, m))
    beside = 3.0 if number == 1 else 0.0  # inches of the legend
    ax = given_or_new(ax, max(3.0, scale * canvas.shape[1] + 0.6) + beside, max(2.5, scale * canvas.shape[0] + 0.6))
    from matplotlib.colors import ListedColormap

    ax.imshow(canvas.numpy(), cmap=ListedColormap(_COLOURS), vmin=0, vmax=3, interpolation="nearest", aspect="equal")
    marked = conflicting_pairs(fill_missing(tiles)).any(-1)
    places = [(corners[k][1] + j, corners[k][0] - 0.95) for k, j in marked.nonzero().tolist()]
    size = 6 if number > 1 else 12
    ax.scatter([x for x, _ in places], [y for _, y in places], marker="v", color=COLOURS[1], s=size, linewidths=0)
    for title, (top, left) in zip(titles, corners, strict=False):
        ax.text(left - 0.5, top - 1.5, title, fontsize=7, va="bottom")
    ax.set_axis_off()
    if number == 1:
        _name(ax, cells, mutations, len(canvas))
    _legend(ax, bool((tiles == MISSING).any()), bool(places), beside=number == 1)
    return ax


def clone_tree(tree: nx.DiGraph, ax: Axes | None = None, *, most_names: int = 3) -> Axes:
    """Draw a tree of clones: normal cells at the top, mutations at the edges, the numbers of cells in the nodes.

    Args:
        tree: a tree of clones, as :func:`~pyro_ext.phylo.perfect_phylogeny` returns it.
        ax: the axes to draw on; new ones if ``None``.
        most_names: the number of mutations that are named at an edge; of more, their number is written.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if the graph is no directed tree.

    Example:
        >>> from pyro_ext.phylo import MutationMatrix, perfect_phylogeny
        >>> ax = clone_tree(perfect_phylogeny(MutationMatrix.of([[1, 1, 0], [1, 0, 1]])))
        >>> [text.get_text() for text in ax.texts]
        ['0', '0', 'm1', '1', 'm2', '1', 'm3']
    """
    if len(tree) == 0 or not nx.is_arborescence(tree):
        raise ValueError("tree must be a directed tree of clones, as perfect_phylogeny returns it")
    place = _places(tree)
    width = max(x for x, _ in place.values()) + 1
    depth = 1 - min(y for _, y in place.values())
    ax = given_or_new(ax, min(14.0, max(4.0, 1.1 * width)), min(12.0, max(2.5, 0.8 * depth + 0.5)))
    for node in tree:
        x, y = place[node]
        for above in tree.predecessors(node):
            ax.plot([place[above][0], x], [place[above][1], y], color="grey", linewidth=1, linestyle="-", zorder=1)
    for node in tree:
        x, y = place[node]
        number = len(tree.nodes[node]["cells"])
        colour = "#1f4e8c" if node else "white"
        ax.scatter([x], [y], s=60 + 25 * math.sqrt(number) * 4, color=colour, edgecolors="#1f4e8c", zorder=2)
        ax.text(x, y, str(number), color="white" if node else "#1f4e8c", ha="center", va="center", fontsize=7, zorder=3)
        names = tree.nodes[node]["mutations"]
        if names:
            shown = ", ".join(names[:most_names]) + (
                f" and {len(names) - most_names} more" if names[most_names:] else ""
            )
            above = place[next(tree.predecessors(node))]
            ax.text(
                (x + above[0]) / 2,
                (y + above[1]) / 2,
                shown,
                ha="center",
                va="center",
                fontsize=6,
                zorder=3,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
            )
    ax.set_xlim(-0.7, width - 0.3)
    ax.set_ylim(0.5 - depth, 0.4)
    ax.set_axis_off()
    return finish(ax, title="circles: numbers of cells; lines: the mutations gained")


def _places(tree: nx.DiGraph) -> dict[int, tuple[float, float]]:
    """Return where nodes are drawn: leaves side by side, others above the middle of what is below them."""
    place: dict[int, tuple[float, float]] = {}
    depth = nx.shortest_path_length(tree, next(node for node, degree in tree.in_degree() if degree == 0))
    following = 0.0
    for node in nx.dfs_postorder_nodes(tree, min(depth, key=lambda each: depth[each])):
        below = [place[kid][0] for kid in tree.successors(node)]
        x = (min(below) + max(below)) / 2 if below else following
        following += 0 if below else 1
        place[node] = (x, -float(depth[node]))
    return place


def _name(ax: Axes, cells: Sequence[str], mutations: Sequence[str], height: int) -> None:
    """Write the names of cells and mutations of the only matrix."""
    if 0 < len(cells) <= _MOST_NAMES:
        for row, name in enumerate(cells):
            ax.text(0.3, _GAP + row, name, fontsize=6, ha="right", va="center")
    if 0 < len(mutations) <= _MOST_NAMES:
        for column, name in enumerate(mutations):
            ax.text(1 + column, height - 0.3, name, fontsize=6, rotation=90, ha="center", va="top")


def _legend(ax: Axes, missing: bool, conflict: bool, beside: bool) -> None:
    """Say what colours and marks mean, beside the only matrix or below several."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [
        Patch(color=_COLOURS[1], label="cell (row) has mutation (column)"),
        Patch(color=_COLOURS[0], label="has not"),
    ]
    if missing:
        handles.append(Patch(color=_COLOURS[MISSING], label="not observed"))
    if conflict:
        mark = Line2D([], [], marker="v", color=COLOURS[1], linestyle="none", markersize=4, label="in conflict")
        handles.append(mark)
    place = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if beside else {"loc": "upper center", "ncols": 2}
    ax.legend(handles=handles, fontsize=6, frameon=False, **({"bbox_to_anchor": (0.5, 0)} | place))
