"""One graph some of whose nodes have labels: from a networkx graph, or bundled with networkx."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from pyro_ext.datasets.base import Splits, WholeObject
from pyro_ext.ops.graphs import adjacency_matrix, normalize_rows
from pyro_ext.ops.sparse import SparseMatrix
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["LabelledGraph", "from_networkx", "karate_club", "labelled_graph"]


@dataclass(kw_only=True)
class LabelledGraph(Splits):
    """A graph whose nodes have features and some of whose nodes have labels.

    ``train``, ``valid`` and ``test`` are nodes of the one graph, each a :class:`~pyro_ext.datasets.WholeObject` whose
    parts are the labels of these nodes, ``(n,)``, and their numbers, ``(n,)``. All nodes and edges are seen in
    training; what is held out is labels.

    Args:
        adjacency: the weights of the edges, symmetric, N x N.
        features: the features of the nodes, sparse, N x F.
        labels: the class of each node, int64 ``(N,)``; -1 where it is unknown.
        num_classes: the number C of classes.
        node_names: what the nodes are called, if anything.
    """

    adjacency: SparseMatrix
    features: SparseMatrix
    labels: Tensor
    num_classes: int
    node_names: tuple[str, ...] = ()


def labelled_graph(
    name: str,
    adjacency: SparseMatrix,
    features: SparseMatrix,
    labels: Tensor,
    train: Tensor,
    valid: Tensor | None = None,
    test: Tensor | None = None,
    *,
    steps_per_epoch: int = 1,
    node_names: Sequence[str] = (),
) -> LabelledGraph:
    """Return a graph with the nodes to train, validate and test on.

    Args:
        name: what the graph is called.
        adjacency: the weights of the edges, symmetric, N x N.
        features: the features of the nodes, N x F.
        labels: the class of each node, int64 ``(N,)``; -1 where it is unknown.
        train: the nodes to train on, int64.
        valid: the nodes to validate on, if any.
        test: the nodes left for the last word, if any.
        steps_per_epoch: the number of steps that make an epoch.
        node_names: what the nodes are called, if anything.

    Raises:
        ValueError: if sizes do not fit, a node to train or evaluate on does not exist, has no label, or comes twice.

    Example:
        >>> edges = adjacency_matrix(torch.tensor([[0, 1], [1, 2]]), 3)
        >>> features = SparseMatrix.from_dense(torch.eye(3))
        >>> graph = labelled_graph("path", edges, features, torch.tensor([0, -1, 1]), torch.tensor([0, 2]))
        >>> graph.train[0]
        (tensor([0, 1]), tensor([0, 2]))
    """
    number = adjacency.shape[0]
    if features.shape[0] != number or labels.shape != (number,):
        raise ValueError(
            f"features and labels must have a row for each of {number} nodes, got {features.shape[0]} rows and labels "
            f"of shape {tuple(labels.shape)}"
        )
    if not adjacency.is_symmetric:
        raise ValueError("adjacency must be symmetric; make it with adjacency_matrix")
    parts = {"train": train, "valid": valid, "test": test}
    given = {part: nodes.long() for part, nodes in parts.items() if nodes is not None and len(nodes)}
    for part, nodes in given.items():
        if bool(((nodes < 0) | (nodes >= number)).any()):
            raise ValueError(f"{part} names nodes outside of 0 to {number - 1}, those of the graph")
        if bool((labels[nodes] < 0).any()):
            missing = int(nodes[labels[nodes] < 0][0])
            raise ValueError(f"{part} names node {missing}, whose label is unknown (-1); leave it out")
    if "train" not in given:
        raise ValueError("train must name at least one node with a label, got none")
    together = torch.cat([*given.values()])
    if len(together.unique()) < len(together):
        raise ValueError("train, valid and test must not share nodes, nor name one twice")
    classes = int(labels.max()) + 1
    if classes > number:
        raise ValueError(f"labels must be classes 0 .. C - 1 with members, got {classes - 1} among {number} nodes")
    if classes < 2:
        raise ValueError(f"labels must be classes 0 .. C - 1 of two at least, got {classes}")
    wholes = {
        part: WholeObject(labels[nodes].long(), nodes, steps_per_epoch=steps_per_epoch) for part, nodes in given.items()
    }
    return LabelledGraph(
        name,
        wholes["train"],
        wholes.get("valid"),
        wholes.get("test"),
        adjacency=adjacency,
        features=features,
        labels=labels.long(),
        num_classes=classes,
        node_names=tuple(node_names),
    )


def from_networkx(
    graph: nx.Graph,
    labels: Mapping[Any, Any] | str,
    train: Sequence[Hashable],
    valid: Sequence[Hashable] = (),
    test: Sequence[Hashable] = (),
    *,
    features: Mapping[Hashable, Sequence[float]] | None = None,
    weight: str | None = "weight",
    steps_per_epoch: int = 1,
    name: str = "graph",
) -> LabelledGraph:
    """Turn a graph of networkx into data.

    Nodes are numbered in the order of ``graph.nodes``. Nodes without edges are kept. Parallel edges are one edge whose
    weight is the sum of theirs. Without features each node is told apart by a feature of its own, 1 for this node and
    0 for all others, as in the publication's example.

    Args:
        graph: an undirected graph.
        labels: the class of each labelled node by the node; or the name of a node attribute that holds it. Classes are
            numbered in the sorted order of their texts, unless they are the integers 0 to C - 1. Nodes that are not in
            it have no label.
        train: the nodes to train on.
        valid: the nodes to validate on.
        test: the nodes left for the last word.
        features: a row of numbers for each node; zeros for nodes that are not in it.
        weight: the edge attribute that holds weights, 1 where an edge has none; None if all edges are alike.
        steps_per_epoch: the number of steps that make an epoch.
        name: what the graph is called.

    Raises:
        ValueError: if the graph is directed or empty, a weight is negative or no number, or a node that is named does
            not exist.

    Example:
        >>> graph = nx.path_graph(["a", "b", "c"])
        >>> data = from_networkx(graph, {"a": "left", "c": "right"}, train=["a", "c"])
        >>> data.labels, data.node_names
        (tensor([ 0, -1,  1]), ('a', 'b', 'c'))
    """
    if graph.is_directed():
        raise ValueError("graph must be undirected, got a directed one; use graph.to_undirected()")
    if graph.number_of_nodes() == 0:
        raise ValueError("graph must have at least one node, got none")
    place = {node: at for at, node in enumerate(graph.nodes)}

    def places(argument: str, nodes: Sequence[Hashable]) -> Tensor:
        unknown = [node for node in nodes if node not in place]
        if unknown:
            raise ValueError(f"{argument} names {unknown[0]!r}, which is no node of the graph")
        return torch.tensor([place[node] for node in nodes], dtype=torch.int64)

    of_nodes = nx.get_node_attributes(graph, labels) if isinstance(labels, str) else dict(labels)
    known = {node: _plain(value) for node, value in of_nodes.items()}
    if not known:
        raise ValueError(f"labels must hold the class of one node at least, got none for {labels!r}")
    classes = _numbered(known.values())
    classes_of = torch.full((len(place),), -1, dtype=torch.int64)
    classes_of[places("labels", [*known])] = torch.tensor([classes[value] for value in known.values()])
    if features is None:
        rows = _one_hot(len(place))
    else:
        rows = _feature_rows(features, places("features", [*features]), place)
    return labelled_graph(
        name,
        _edges_of(graph, place, weight),
        rows,
        classes_of,
        *(places(part, nodes) for part, nodes in (("train", train), ("valid", valid), ("test", test))),
        steps_per_epoch=steps_per_epoch,
        node_names=[str(node) for node in place],
    )


_COMMUNITIES = (
    (0, 1, 2, 3, 7, 11, 12, 13, 17, 19, 21),
    (4, 5, 6, 10, 16),
    (8, 9, 14, 15, 18, 20, 22, 26, 29, 30, 32, 33),
    (23, 24, 25, 27, 28, 31),
)
"""The division of the karate club with the largest modularity, 0.4198 with edges that are all alike."""

_CENTRES = (0, 5, 33, 31)
"""A member of each group with the most friends."""


def karate_club(
    classes: Literal["communities", "factions"] = "communities", weighted: bool = False, steps_per_epoch: int = 10
) -> LabelledGraph:
    """Load Zachary's karate club, 34 members and 78 friendships, which comes with networkx.

    One member of each class has a label; the others are for validation. Members have no features but themselves.

    Args:
        classes: ``"communities"`` are the four groups of the division with the largest modularity, as in the
            publication's example; ``"factions"`` are the two clubs that the club fell into.
        weighted: whether friendships count by the number of contexts in which members met.
        steps_per_epoch: the number of steps that make an epoch, after which there are metrics and a checkpoint.

    Returns:
        A graph of 34 nodes with 34 features each.

    Raises:
        ValueError: if an argument is not one of those above.

    References:
        | An information flow model for conflict and fission in small groups (Zachary, 1977)
        | https://doi.org/10.1086/jar.33.4.3629752
        | Semi-supervised classification with graph convolutional networks (Kipf and Welling, 2017), appendix A
        | https://arxiv.org/abs/1609.02907

    Example:
        >>> data = karate_club()
        >>> data.num_classes, len(data.valid[0][0]), data.train[0]
        (4, 30, (tensor([0, 1, 2, 3]), tensor([ 0,  5, 33, 31])))
    """
    one_of("classes", classes, ("communities", "factions"))
    graph = nx.karate_club_graph()
    if classes == "communities":
        labels = {node: number for number, members in enumerate(_COMMUNITIES) for node in members}
        train = [*_CENTRES]
    else:
        labels = {node: int(club != "Mr. Hi") for node, club in graph.nodes(data="club")}
        train = [0, 33]
    return from_networkx(
        graph,
        labels,
        train,
        [node for node in graph if node not in train],
        weight="weight" if weighted else None,
        steps_per_epoch=steps_per_epoch,
        name="karate_club",
    )


def scaled_features(features: SparseMatrix, normalize: bool) -> SparseMatrix:
    """Return features whose rows sum to 1 if ``normalize``; rows of zeros stay."""
    return normalize_rows(features) if normalize else features


def _plain(value: Any) -> Any:
    """Return a number of torch or numpy as one of Python, by whose value it is compared."""
    if isinstance(value, Tensor | np.generic | np.ndarray):
        if (value.numel() if isinstance(value, Tensor) else value.size) != 1:
            raise ValueError(f"labels must be one class for each node, got a {type(value).__name__}: {value}")
        return value.item()
    return value


def _numbered(values: Any) -> dict[Any, int]:
    found = {*values}
    if all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in found):
        missing = next((number for number in range(max(found) + 1) if number not in found), None)
        if missing is not None:
            raise ValueError(f"labels go up to {max(found)}, but no node has {missing}; number them 0 .. C - 1")
        return {value: value for value in found}
    return {value: number for number, value in enumerate(sorted(found, key=str))}


def _one_hot(number: int) -> SparseMatrix:
    nodes = torch.arange(positive_int("number", number))
    return SparseMatrix.from_coo(nodes, nodes, torch.ones(number), (number, number))


def _feature_rows(
    rows: Mapping[Hashable, Sequence[float]], nodes: Tensor, place: Mapping[Hashable, int]
) -> SparseMatrix:
    lengths = {len(row) for row in rows.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"features must be rows of one length, at least 1, got lengths {sorted(lengths)}")
    (length,) = lengths
    table = torch.as_tensor([[float(value) for value in row] for row in rows.values()])
    if not bool(table.isfinite().all()):
        raise ValueError("features must be finite numbers")
    at, col = table.nonzero(as_tuple=True)
    return SparseMatrix.from_coo(nodes[at], col, table[at, col], (len(place), length))


def _edges_of(graph: nx.Graph, place: Mapping[Hashable, int], weight: str | None) -> SparseMatrix:
    total: dict[tuple[int, int], float] = {}
    weighted = graph.edges(data=weight, default=1) if weight else ((*ends[:2], 1) for ends in graph.edges)
    for one, other, value in weighted:
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
            raise ValueError(
                f"the edge {one!r} - {other!r} has weight {value!r}; weights must be finite numbers of at least 0 "
                "(weight=None takes no notice of them)"
            )
        ends = (min(place[one], place[other]), max(place[one], place[other]))
        total[ends] = total.get(ends, 0.0) + float(value)
    edges = torch.tensor([*total], dtype=torch.int64).reshape(-1, 2).T
    return adjacency_matrix(edges, len(place), torch.tensor([*total.values()], dtype=torch.get_default_dtype()))
