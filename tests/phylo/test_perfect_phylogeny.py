import math
from itertools import product

import networkx as nx
import pytest
import torch

from pyro_ext.datasets import simulate_coalescent
from pyro_ext.ops.mutations import is_conflict_free, observation_nll
from pyro_ext.phylo import (
    MutationMatrix,
    ancestor_descendant_accuracy,
    clade_distance,
    clade_probabilities,
    conflict_graph,
    different_lineage_accuracy,
    perfect_phylogeny,
    phylogeny_newick,
    phylogeny_trees,
    robinson_foulds,
)


def every(n, m):
    return (torch.arange(2 ** (n * m)).unsqueeze(-1) >> torch.arange(n * m) & 1).reshape(-1, n, m)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def genotypes(tree):
    """The mutations on the path from the root to each cell."""
    return {
        cell: {name for above in nx.shortest_path(tree, 0, node) for name in tree.nodes[above]["mutations"]}
        for node in tree
        for cell in tree.nodes[node]["cells"]
    }


def assert_tree_of(matrix, tree):
    assert nx.is_arborescence(tree)
    rows = matrix.values.tolist()
    assert genotypes(tree) == {
        cell: {name for name, entry in zip(matrix.mutations, row, strict=True) if entry}
        for cell, row in zip(matrix.cells, rows, strict=True)
    }
    placed = [name for node in tree for name in tree.nodes[node]["mutations"]]
    assert sorted([*placed, *tree.graph["absent"]]) == sorted(matrix.mutations)
    assert all(tree.nodes[node]["mutations"] for node in tree if node != 0)


def test_all_small_matrices():
    matrices = every(3, 3)
    for values in matrices[is_conflict_free(matrices)]:
        matrix = MutationMatrix.of(values)
        tree = perfect_phylogeny(matrix)
        assert_tree_of(matrix, tree)
        assert list(nx.dfs_preorder_nodes(tree, 0)) == [*range(len(tree))]
    with pytest.raises(ValueError, match=r"mutations 'm1' and 'm3' are in conflict \(one of 1 pairs\)"):
        perfect_phylogeny(MutationMatrix.of([[1, 0, 1], [1, 0, 0], [0, 0, 1]]))


def test_simulated_matrices():
    for values in simulate_coalescent(20, 30, 40, generator=seeded()):
        matrix = MutationMatrix.of(values)
        assert_tree_of(matrix, perfect_phylogeny(matrix))


def test_missing_entries_have_no_tree():
    with pytest.raises(ValueError, match=r"matrix has 1 missing entries; take matrix.replace\(matrix.filled\(\)\)"):
        perfect_phylogeny(MutationMatrix.of([[1, 3]]))


def test_newick_keeps_names():
    dendropy = pytest.importorskip("dendropy")
    matrix = MutationMatrix.of(
        [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], ["A 1", "B", "C's", "D"], ["x", "y:2", "none", "z"]
    )
    text = phylogeny_newick(perfect_phylogeny(matrix))
    assert text == "(((C''s:0,('A 1':0,B:0)'y:2':1)x:1,(D:0)z:1);".replace("((C''s", "('C''s'", 1)
    read = dendropy.Tree.get(data=text, schema="newick", preserve_underscores=True)
    assert sorted(leaf.taxon.label for leaf in read.leaf_node_iter()) == sorted(matrix.cells)
    assert {node.label for node in read.preorder_internal_node_iter()} == {None, "x", "y:2", "z"}


def test_newick_of_one_cell():
    assert phylogeny_newick(perfect_phylogeny(MutationMatrix.of([[1, 0]]))) == "((cell1:0)m1:1);"
    empty = perfect_phylogeny(MutationMatrix.of([[0], [0]]))
    assert phylogeny_newick(empty) == "(cell1:0,cell2:0);"
    assert empty.graph["absent"] == ("m1",)


def test_trees_of_ours():
    """Distances from the root are numbers of mutations, whatever the resolution of multifurcations."""
    values = simulate_coalescent(1, 12, 20, generator=seeded(1))[0]
    matrix = MutationMatrix.of(values)
    trees = phylogeny_trees(perfect_phylogeny(matrix), seed=3)
    assert (trees.rooted, len(trees), trees.taxa) == (True, 1, matrix.cells)
    parents, lengths = trees.parents[0].tolist(), trees.branch_lengths[0].tolist()
    lengths.insert(12, 0.0)  # of the root

    def depth(node):
        return 0.0 if parents[node] < 0 else lengths[node] + depth(parents[node])

    assert [depth(cell) for cell in range(12)] == values.sum(-1).tolist()
    with pytest.raises(ValueError, match="tree must have two cells at least, got 1"):
        phylogeny_trees(perfect_phylogeny(MutationMatrix.of([[1]])))


def binary(clades, n):
    """A matrix whose tree is binary: random joins of clades, each once as a mutation."""
    generator = seeded(clades)
    current = [{cell} for cell in range(n)]
    columns = []
    while len(current) > 1:
        a, b = torch.randperm(len(current), generator=generator)[:2].tolist()
        joined = current[a] | current[b]
        current = [clade for place, clade in enumerate(current) if place not in (a, b)] + [joined]
        columns.append([int(cell in joined) for cell in range(n)])
    return torch.tensor(columns).T


def test_distance_of_robinson_and_foulds():
    matrices = torch.stack([binary(seed, 7) for seed in range(12)])
    trees = [phylogeny_trees(perfect_phylogeny(MutationMatrix.of(values))).parents for values in matrices]
    expected = robinson_foulds(torch.cat(trees).unsqueeze(1), torch.cat(trees), rooted=True)
    assert torch.equal(clade_distance(matrices.unsqueeze(1), matrices), expected)
    assert int(expected.max()) > 4
    more = torch.cat([matrices, matrices[..., :2], torch.zeros(12, 7, 1, dtype=torch.int64)], -1)
    assert not clade_distance(matrices, more).any()
    with pytest.raises(ValueError, match="first has 7 cells but second 6"):
        clade_distance(matrices, matrices[:, :6])


def test_accuracies_by_brute_force():
    truth, estimate = (simulate_coalescent(40, 6, 5, generator=seeded(seed)) for seed in (2, 3))

    def clades(values):
        return [frozenset(values[:, q].nonzero().flatten().tolist()) for q in range(5)]

    def share(related, true, estimated):
        pairs = [(p, q) for p, q in product(range(5), repeat=2) if p != q and related(true[p], true[q])]
        return sum(related(estimated[p], estimated[q]) for p, q in pairs) / len(pairs) if pairs else 1.0

    one, other = [clades(values) for values in truth], [clades(values) for values in estimate]
    for function, related in (
        (ancestor_descendant_accuracy, lambda p, q: q and q < p),
        (different_lineage_accuracy, lambda p, q: p and q and not p & q),
    ):
        expected = [share(related, a, b) for a, b in zip(one, other, strict=True)]
        assert function(truth, estimate).tolist() == pytest.approx(expected)
        assert function(truth, truth).eq(1).all()
        with pytest.raises(ValueError, match="of the same cells and mutations"):
            function(truth, estimate[..., :4])


def test_clades_of_samples():
    samples = simulate_coalescent(200, 5, 6, generator=seeded(4))
    result = clade_probabilities(samples, torch.ones(200, dtype=torch.float64))
    count = {}
    for values in samples:
        for clade in {tuple(column) for column in values.mT.tolist() if 1 < sum(column) < 5}:
            count[clade] = count.get(clade, 0) + 1
    assert {
        tuple(clade): round(p * 200) for clade, p in zip(result[0].tolist(), result[1].tolist(), strict=True)
    } == count
    assert bool((result.probabilities.diff() <= 0).all())
    pair = torch.stack([binary(0, 5), binary(1, 5)])
    weighted = clade_probabilities(pair, torch.tensor([3.0, 1.0]))
    assert {0.25, 0.75} <= set(weighted.probabilities.tolist()) <= {0.25, 0.75, 1.0}
    for wrong in (torch.zeros(2), torch.tensor([1.0, -1.0]), torch.ones(3), torch.tensor([math.nan, 1.0])):
        with pytest.raises(ValueError, match="weights must be 2 finite numbers"):
            clade_probabilities(samples[:2], wrong)
    with pytest.raises(ValueError, match=r"matrices must be samples \(S, n, m\)"):
        clade_probabilities(samples[0])


def test_graph_of_conflicts():
    matrix = MutationMatrix.of([[1, 1, 0], [1, 0, 3], [1, 0, 1], [0, 1, 1]], mutations=["x", "y", "z"])
    graph = conflict_graph(matrix)
    assert set(graph) == {"x", "y", "z"}
    edges = {frozenset(edge[:2]): edge[2] for edge in graph.edges(data="weight")}
    assert edges == {frozenset("xy"): 2, frozenset("xz"): 2, frozenset("yz"): 1}


def test_likelihood_of_observations():
    truth = every(2, 2)[:, None]
    observed = every(2, 2)
    alpha, beta = torch.tensor([0.1, 0.2], dtype=torch.float64), 0.3
    nll = observation_nll(observed, truth.double(), alpha, beta)
    assert nll.shape == (16, 16)
    torch.testing.assert_close((-nll).exp().sum(-1), torch.ones(16, dtype=torch.float64))
    assert observation_nll(torch.tensor([[3, 3]]), torch.tensor([[1, 0]]), 0.1, 0.2) == 0
    assert observation_nll(torch.tensor([[1]]), torch.tensor([[0]]), 0.0, 0.2) == math.inf
