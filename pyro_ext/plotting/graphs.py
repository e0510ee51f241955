"""Graphs whose nodes have classes, and their embeddings in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_ext.plotting.axes import given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_graph", "embedding"]


def draw_graph(
    edges: Tensor,
    classes: Tensor,
    ax: Axes | None = None,
    *,
    marked: Tensor | Sequence[int] = (),
    wrong: Tensor | Sequence[int] = (),
    names: Sequence[str] = (),
    seed: int = 0,
) -> Axes:
    """Draw a small graph, with a colour for each class.

    Args:
        edges: pairs of nodes, int64 ``(2, E)``.
        classes: the class of each node, int64 ``(N,)``; nodes of class -1 are grey.
        ax: the axes to draw on; new ones if ``None``.
        marked: nodes drawn as large squares, such as those with labels.
        wrong: nodes with a red rim, such as those whose class is wrong.
        names: what is written on the nodes; their numbers if empty.
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
        ax.plot([x0, x1], [y0, y1], color="lightgrey", linewidth=0.8, zorder=1)
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
            edgecolors="red" if node in red else "black",
            linewidths=2 if node in red else 0.5,
            zorder=2,
        )
        name = names[node] if names else str(node)
        ax.text(x, y, name, ha="center", va="center", fontsize=7, zorder=3, in_layout=False)
    ax.set_axis_off()
    return ax


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
        ax.scatter(own[:, 0], own[:, 1], s=9, color=[colour], alpha=0.7, label="unknown" if k < 0 else f"class {k}")
    ax.set(xlabel="first principal component", ylabel="second principal component")
    ax.legend(frameon=False, fontsize=8, markerscale=1.5)
    return ax


def _colours(classes: Tensor) -> list[Any]:
    return ["lightgrey" if k < 0 else f"C{k % 10}" for k in classes.tolist()]
