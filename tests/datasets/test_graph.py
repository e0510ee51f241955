import networkx as nx
import numpy as np
import pytest
import torch

from pyro_ext.datasets import LabelledGraph, from_networkx, karate_club, labelled_graph
from pyro_ext.ops.graphs import adjacency_matrix
from pyro_ext.ops.sparse import SparseMatrix


def test_karate_club():
    data = karate_club()
    assert (data.adjacency.shape, len(data.adjacency.values)) == ((34, 34), 2 * 78)
    assert data.adjacency.values.unique().tolist() == [1]
    assert torch.equal(data.features.to_dense(), torch.eye(34))
    groups = [set((data.labels == k).nonzero()[:, 0].tolist()) for k in range(4)]
    graph = nx.karate_club_graph()
    assert nx.community.modularity(graph, groups, weight=None) == pytest.approx(0.41979, abs=1e-5)
    labels, nodes = data.train[0]
    assert labels.tolist() == [0, 1, 2, 3]
    assert sorted([*nodes.tolist(), *data.valid[0][1].tolist()]) == [*range(34)]
    assert data.test is None
    assert all(
        max(dict(graph.degree(group)).values()) == graph.degree(int(n)) for n, group in zip(nodes, groups, strict=True)
    )


def test_karate_club_as_it_fell_apart():
    data = karate_club("factions", weighted=True, steps_per_epoch=5)
    assert data.num_classes == 2
    assert data.train[0][1].tolist() == [0, 33]
    assert data.adjacency.values.max() == 7
    assert data.train.steps_per_epoch == 5


def test_any_graph_of_networkx():
    graph = nx.MultiGraph()
    graph.add_nodes_from(["alone", "b", "a", "c"])
    graph.add_edge("a", "b", weight=2.0)
    graph.add_edge("b", "a", weight=0.5)
    graph.add_edge("c", "c")
    rows = {"a": [1, 0, 0], "c": [0, 0, 2.5]}
    nx.set_node_attributes(graph, {"a": "x", "b": "y", "c": "x"}, "kind")
    data = from_networkx(graph, "kind", ["a", "b"], test=["c"], features=rows, name="small")
    assert isinstance(data, LabelledGraph)
    assert data.node_names == ("alone", "b", "a", "c")
    assert data.labels.tolist() == [-1, 1, 0, 0]
    assert data.adjacency.to_dense().tolist() == [[0, 0, 0, 0], [0, 0, 2.5, 0], [0, 2.5, 0, 0], [0, 0, 0, 1]]
    assert data.features.to_dense().tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 2.5]]
    assert data.valid is None
    assert data.test[0][1].tolist() == [3]
    alike = from_networkx(nx.Graph(graph), "kind", ["a", "b"], weight=None)
    assert alike.adjacency.values.tolist() == [1, 1, 1]
    assert from_networkx(nx.empty_graph(2), {0: 0, 1: 1}, [0, 1]).adjacency.shape == (2, 2)


PATH = nx.path_graph(3)
LABELS = {0: 0, 2: 1}
EDGES = adjacency_matrix(torch.tensor([[0], [1]]), 3)


def weighted(value):
    graph = nx.path_graph(3)
    graph.edges[0, 1]["weight"] = value
    return graph


def made(**changed):
    usual = {"adjacency": EDGES, "features": SparseMatrix.from_dense(torch.eye(3)), "labels": torch.tensor([0, -1, 1])}
    return labelled_graph("made", **(usual | {"train": torch.tensor([0, 2])} | changed))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_networkx(nx.DiGraph(PATH), LABELS, [0]), r"must be undirected.*use graph.to_undirected\(\)"),
        (lambda: from_networkx(nx.Graph(), LABELS, [0]), "at least one node, got none"),
        (lambda: from_networkx(PATH, {0: 0, 9: 1}, [0]), "labels names 9, which is no node of the graph"),
        (lambda: from_networkx(PATH, LABELS, [7]), "train names 7, which is no node"),
        (lambda: from_networkx(PATH, LABELS, [1]), r"train names node 1, whose label is unknown \(-1\)"),
        (lambda: from_networkx(PATH, LABELS, []), "train must name at least one node"),
        (lambda: from_networkx(PATH, LABELS, [0, 0]), "nor name one twice"),
        (lambda: from_networkx(PATH, LABELS, [0], [0]), "must not share nodes"),
        (
            lambda: from_networkx(PATH, "kind", [0]),
            "class of one node at least, got none for 'kind'",
        ),
        (lambda: from_networkx(PATH, {0: 0, 1: 2}, [0]), "labels go up to 2, but no node has 1"),
        (lambda: from_networkx(PATH, {0: 0, 1: 0}, [0]), "two at least, got 1"),
        (lambda: from_networkx(weighted(-1.0), LABELS, [0]), "the edge 0 - 1 has weight -1.0; weights must be finite"),
        (lambda: from_networkx(weighted("heavy"), LABELS, [0]), "has weight 'heavy'"),
        (lambda: from_networkx(weighted(float("inf")), LABELS, [0]), "has weight inf"),
        (lambda: from_networkx(PATH, LABELS, [0], features={0: [1.0], 1: [1.0, 2.0]}), r"one length.*\[1, 2\]"),
        (lambda: from_networkx(PATH, LABELS, [0], features={0: [float("nan")]}), "features must be finite"),
        (lambda: from_networkx(PATH, LABELS, [0], features={5: [1.0]}), "features names 5"),
        (lambda: karate_club("clubs"), "classes must be one of communities, factions; got 'clubs'"),
        (lambda: made(labels=torch.zeros(2).long()), "features and labels must have a row for each of 3 nodes"),
        (lambda: made(adjacency=EDGES.with_values(EDGES.values)), "adjacency must be symmetric"),
        (lambda: made(train=torch.tensor([3])), "train names nodes outside of 0 to 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", [np.int64, np.int8, lambda k: torch.tensor(k), lambda k: np.array(k)])
def test_integers_of_torch_and_numpy_are_integers(kind):
    """Sorted as text, 10 would come before 2; tensors are equal only to themselves."""
    graph = nx.path_graph(24)
    data = from_networkx(graph, {node: kind(node % 12) for node in graph}, train=[0, 1])
    assert data.num_classes == 12
    assert data.labels.tolist() == [*range(12)] * 2


def test_more_classes_than_nodes_are_refused():
    graph = adjacency_matrix(torch.tensor([[0], [1]]), 2)
    features = SparseMatrix.from_dense(torch.eye(2))
    with pytest.raises(ValueError, match=r"classes 0 .. C - 1 with members, got 1000000000000 among 2 nodes"):
        labelled_graph("huge", graph, features, torch.tensor([0, 10**12]), torch.tensor([0]))
    with pytest.raises(ValueError, match="labels must be one class for each node"):
        from_networkx(nx.path_graph(2), {0: np.arange(2), 1: np.arange(2)}, train=[0])
