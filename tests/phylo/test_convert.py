"""Trees to other packages and back."""

import networkx as nx
import pytest
import torch

from pyro_ext.phylo import (
    TreeSet,
    from_biopython,
    from_dendropy,
    from_nested,
    from_networkx,
    random_trees,
    to_biopython,
    to_dendropy,
    to_networkx,
)

NAMES = ("Homo sapiens", "O'Brien", "a_b", "b", "c", "d")


def trees_of(rooted, lengths, weights=False, n=6):
    generator = torch.Generator().manual_seed(0)
    parents = random_trees(n, 12, rooted=rooted, generator=generator)
    return TreeSet(
        NAMES[:n],
        parents,
        rooted,
        torch.rand(12, dtype=torch.float64, generator=generator) if weights else None,
        torch.rand(12, parents.shape[1] - 1, dtype=torch.float64, generator=generator) if lengths else None,
    )


def same(result, expected):
    assert result.taxa == expected.taxa
    assert result.rooted == expected.rooted
    for part in ("parents", "weights", "branch_lengths"):
        ours, theirs = getattr(result, part), getattr(expected, part)
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours == theirs).all()


BOTH = pytest.mark.parametrize("rooted", [False, True])
LENGTHS = pytest.mark.parametrize("lengths", [False, True])


@BOTH
@LENGTHS
@pytest.mark.parametrize("n", [2, 3, 6])
def test_networkx(rooted, lengths, n):
    trees = trees_of(rooted, lengths, n=n)
    graphs = [to_networkx(trees, k) for k in range(len(trees))]
    assert all(nx.is_arborescence(graph) for graph in graphs)
    same(from_networkx(*graphs, rooted=rooted), trees)
    if not rooted:
        same(from_networkx(*(graph.to_undirected() for graph in graphs)), trees)


@BOTH
@LENGTHS
@pytest.mark.parametrize("weights", [False, True])
def test_biopython(rooted, lengths, weights):
    pytest.importorskip("Bio")
    trees = trees_of(rooted, lengths, weights)
    result = to_biopython(trees)
    assert sorted(leaf.name for leaf in result[0].get_terminals()) == list(NAMES)
    same(from_biopython(result), trees)
    same(from_biopython(result[3]), trees[3])


@BOTH
@LENGTHS
@pytest.mark.parametrize("weights", [False, True])
def test_dendropy(rooted, lengths, weights):
    pytest.importorskip("dendropy")
    trees = trees_of(rooted, lengths, weights)
    result = to_dendropy(trees)
    assert sorted(taxon.label for taxon in result.taxon_namespace) == list(NAMES)
    assert result[0].is_rooted == rooted
    same(from_dendropy(result), trees)
    same(
        from_dendropy(result[3], rooted=rooted),
        TreeSet(trees.taxa, trees.parents[3:4], rooted, trees[3].weights, trees[3].branch_lengths),
    )


def test_nested_tuples():
    trees = from_nested((("c", "a"), "b"), ("a", ("b", "c")), rooted=True)
    assert trees.to_newick() == ["((a,c),b);", "(a,(b,c));"]
    assert from_nested((("d", "a"), ("b", "c"))).to_newick() == ["(a,(b,c),d);"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_nested(), "at least one tree"),
        (lambda: from_networkx(), "at least one tree"),
        (lambda: from_nested(("a", "b", "c", "d")), "tree 0 is not binary: 4 taxa and 5 nodes"),
        (lambda: from_nested(("a", "b", "c"), rooted=True), "tree 0 is not binary: 3 taxa and 4 nodes"),
        (lambda: from_nested((("a", "b", "c"), ("d",))), "no binary tree of 4 taxa"),
        (lambda: from_nested(("a", "b", "c"), ("a", "b", "d")), "tree 1 has other taxa than the first, .*: 'c'"),
        (lambda: from_nested(("a", "b", "b")), "or one twice: 'b'"),
        (lambda: from_networkx(nx.cycle_graph(3)), "the graph is not a tree"),
        (lambda: from_networkx(nx.DiGraph([(0, "a"), (1, "a"), (1, "b")])), "but 2 nodes have no edge into them"),
        (lambda: from_networkx(nx.star_graph(2), rooted=True), "a rooted tree needs directed edges"),
        (
            lambda: from_networkx(nx.Graph([(0, 1, {"length": 1.0}), (0, 2), (0, 3)])),
            "some branches have lengths and some have not",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
