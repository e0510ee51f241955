"""Graphs whose nodes have classes, and their embeddings in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.style import COLOURS, MARKERS, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_graph", "embedding"]

_LIGHT = ("lightgrey", *COLOURS[3:6])  # on which black text is read better than white


def draw_graph(
    edges: Tensor,
    classes: Tensor,
    ax: Axes | None = None,
    *,
    marked: Tensor | Sequence[int] = (),
    wrong: Tensor | Sequence[int] = (),
    names: Sequence[str] = (),
    title: str = "",
    seed: int = 0,
) -> Axes:
    """Draw a small graph, with a colour and a legend for each class.

    Args:
        edges: pairs of nodes, int64 ``(2, E)``.
        classes: the class of each node, int64 ``(N,)``; nodes of class -1 are grey.
        ax: the axes to draw on; new ones if ``None``.
        marked: nodes drawn as large squares, such as those with labels.
        wrong: nodes with a thick black rim, such as those whose class is wrong.
        names: what is written on the nodes; their numbers if empty.
        title: the title; none if empty.
        seed: the seed of the positions.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if an edge ends at a node without a class, or some nodes have names and others have none.

    Example:
        >>> ax = draw_graph(torch.tensor([[0, 1], [1, 2]]), torch.tensor([0, 0, 1]), marked=[0])
        >>> [text.get_text() for text in ax.texts]
        ['0', '1', '2']
    """
    import networkx as nx

    if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < len(classes):
        raise ValueError(f"edges must be between nodes 0 to {len(classes) - 1}, those that have a class")
    if names and len(names) != len(classes):
        raise ValueError(f"names must hold a name for each of {len(classes)} nodes, got {len(names)}")
    graph: Any = nx.Graph()
    graph.add_nodes_from(range(len(classes)))
    graph.add_edges_from(edges.T.tolist())
    place = nx.spring_layout(graph, seed=seed, iterations=200)
    ax = given_or_new(ax, 6, 5)
    for one, other in graph.edges:
        (x0, y0), (x1, y1) = place[one], place[other]
        ax.plot([x0, x1], [y0, y1], color="lightgrey", linewidth=0.8, linestyle="-", zorder=1)
    large, red = {int(node) for node in marked}, {int(node) for node in wrong}
    colours = _colours(classes)
    for node, (x, y) in place.items():
        is_large = node in large
        ax.scatter(
            [x],
            [y],
            s=230 if is_large else 150,
            marker="s" if is_large else "o",
            color=[colours[node]],
            edgecolors="black",
            linewidths=2.5 if node in red else 0.5,
            zorder=2,
        )
        name = names[node] if names else str(node)
        colour = "black" if colours[node] in _LIGHT else "white"
        ax.text(x, y, name, ha="center", va="center", fontsize=7, color=colour, zorder=3, in_layout=False)
    ax.set_axis_off()
    for k in classes.unique().tolist():
        label = "class unknown" if k < 0 else f"class {k}"
        ax.scatter([], [], s=60, color=_colours(torch.tensor([k])), edgecolors="black", linewidths=0.5, label=label)
    for there, marker, rim, label in ((large, "s", 0.5, "marked"), (red, "o", 2.5, "wrong")):
        if there:
            ax.scatter([], [], s=60, marker=marker, color="white", edgecolors="black", linewidths=rim, label=label)
    return finish(ax, title=title, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def embedding(points: Tensor, classes: Tensor, ax: Axes | None = None) -> Axes:
    """Plot points of any dimension in the plane of their first two principal components.

    Args:
        points: shape ``(N, D)``.
        classes: the class of each point, int64 ``(N,)``; points of class -1 are grey.
        ax: the axes to draw on; new ones if ``None``.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if shapes do not fit, or there are fewer than two points.

    Example:
        >>> ax = embedding(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 0, 1]))
        >>> len(ax.collections)
        2
    """
    if points.dim() != 2 or classes.shape != points.shape[:1] or len(points) < 2:
        raise ValueError(
            f"points must have shape (N, D) and classes (N,) with N at least 2, got {tuple(points.shape)} and "
            f"{tuple(classes.shape)}"
        )
    points = points.detach().double().cpu()
    centred = points - points.mean(0)
    plane = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    flat = centred @ plane.T
    flat = torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))
    ax = given_or_new(ax, 5, 4.5)
    for k in classes.cpu().unique().tolist():
        own = flat[classes.cpu() == k]
        colour = _colours(torch.tensor([k]))[0]
        marker = "." if k < 0 else MARKERS[k % len(MARKERS)]
        ax.scatter(
            own[:, 0],
            own[:, 1],
            s=14,
            marker=marker,
            color=[colour],
            alpha=0.7,
            label="unknown" if k < 0 else f"class {k}",
        )
    return finish(ax, "first principal component", "second principal component", markerscale=1.5)


def _colours(classes: Tensor) -> list[Any]:
    return ["lightgrey" if k < 0 else COLOURS[k % 6] for k in classes.tolist()]
