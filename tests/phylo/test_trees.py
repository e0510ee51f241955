"""Canonical parent vectors, splits, distances, random trees and sets of trees, against slow references."""

import itertools

import pytest
import torch
from scipy import stats

from pyro_ext.phylo import (
    TreeSet,
    all_trees,
    asdsf,
    canonicalize,
    children,
    is_canonical,
    num_taxa,
    num_topologies,
    random_trees,
    robinson_foulds,
    root_on_edge,
    split_frequencies,
    split_words,
    splits,
    unroot,
)
from tests.phylo import naive

NAMES = "abcdefghij"


def shuffled(parents, lengths, rooted):
    """The same trees with internal nodes in any order, one length per node; unrooted ones get any internal root."""
    generator = torch.Generator().manual_seed(1)
    num_trees, nodes = parents.shape
    n = num_taxa(parents, rooted)
    root = n if rooted else 0
    lengths = torch.cat([lengths[:, :root], lengths.new_full((num_trees, 1), 99.0), lengths[:, root:]], -1)
    out, out_lengths = torch.empty_like(parents), torch.empty_like(lengths)
    for t in range(num_trees):
        own, own_lengths = parents[t].tolist(), lengths[t].tolist()
        if not rooted and n > 2:  # climb from a random internal node, turning edges round
            node, above = int(torch.randint(n, nodes, (), generator=generator)), -1
            carried = 99.0
            while node >= 0:
                following, own[node] = own[node], above
                carried, own_lengths[node] = own_lengths[node], carried
                node, above = following, node
        new = torch.cat([torch.arange(n), n + torch.randperm(nodes - n, generator=generator)])
        moved = [-1 if parent < 0 else int(new[parent]) for parent in own]
        out[t, new], out_lengths[t, new] = torch.tensor(moved), torch.tensor(own_lengths, dtype=lengths.dtype)
    return out, out_lengths


def test_all_trees_are_distinct_and_canonical():
    for n, rooted in itertools.product(range(2, 8), (False, True)):
        trees = all_trees(n, rooted=rooted)
        assert len(trees) == len(trees.unique(dim=0)) == num_topologies(n, rooted)
        assert is_canonical(trees, rooted).all()
    assert [num_topologies(n) for n in (2, 3, 4, 9)] == [1, 1, 3, 135135]


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("n", [2, 3, 4, 6, 11, 40])
def test_any_numbering_leads_to_the_canonical_one(n, rooted, dtype):
    trees = random_trees(n, 30, rooted=rooted)
    lengths = torch.rand(30, trees.shape[1] - 1, dtype=dtype)
    result = canonicalize(*shuffled(trees, lengths, rooted), rooted=rooted)
    assert (result.parents == trees).all()
    assert (result.branch_lengths == lengths).all()
    assert result.branch_lengths.dtype == dtype


@pytest.mark.parametrize("rooted", [False, True])
def test_canonical_form_by_its_definition(rooted):
    trees = TreeSet(tuple(NAMES), random_trees(10, 40, rooted=rooted), rooted)
    for line, parents in zip(trees.to_newick(), trees.parents.tolist(), strict=True):
        assert parents == naive.canonical(NAMES, naive.parse(line), rooted)


def test_canonicalize_keeps_batch_dims_and_none():
    trees = random_trees(5, 6).reshape(2, 3, 8)
    result = canonicalize(trees)
    assert (result.parents == trees).all()
    assert result.branch_lengths is None
    assert canonicalize(trees[:0]).parents.shape == (0, 3, 8)
    assert (canonicalize(trees.int()).parents == trees).all()


def test_a_root_of_degree_two_is_dissolved():
    rooted = random_trees(7, 50, rooted=True)
    lengths = torch.rand(50, 12, dtype=torch.float64)
    result = unroot(rooted, lengths)
    for t in range(50):
        tree = TreeSet(tuple(NAMES[:7]), rooted[t : t + 1], True, branch_lengths=lengths[t : t + 1])
        expected = naive.edges(naive.parse(tree.to_newick()[0]), rooted=False)
        ours = naive.edges_of(NAMES[:7], result.parents[t].tolist(), result.branch_lengths[t].tolist(), False)
        assert ours == pytest.approx(expected)


def test_rooting_on_every_edge_and_back():
    trees, lengths = random_trees(6, 20), torch.rand(20, 9, dtype=torch.float64)
    rooted = root_on_edge(trees.unsqueeze(1), torch.arange(9), lengths.unsqueeze(1), fraction=0.25)
    assert rooted.parents.shape == (20, 9, 11)
    assert is_canonical(rooted.parents, rooted=True).all()
    assert len(rooted.parents[0].unique(dim=0)) == 9
    back = unroot(*rooted)
    assert (back.parents == trees.unsqueeze(1)).all()
    torch.testing.assert_close(back.branch_lengths, lengths.unsqueeze(1).expand(20, 9, 9))
    ends = splits(rooted.parents, rooted=True)
    at_root = rooted.parents[..., torch.arange(11) != 6] == 6
    far = splits(trees).unsqueeze(1).expand(20, 9, 9, 6).diagonal(dim1=1, dim2=2).movedim(-1, 1)  # below edge e
    own = (ends == far.unsqueeze(2)).all(-1) & at_root
    assert (own.sum(-1) == 1).all()
    expected = lengths.unsqueeze(1).expand(20, 9, 9).diagonal(dim1=1, dim2=2) * 0.25
    torch.testing.assert_close(rooted.branch_lengths[own].reshape(20, 9), expected)


@pytest.mark.parametrize("rooted", [False, True])
def test_is_canonical_accepts_exactly_the_canonical(rooted):
    """All vectors of five nodes or so: whatever is accepted is on the list of all trees."""
    n = 3 if rooted else 4
    nodes = 2 * n - 2 + rooted
    every = torch.cartesian_prod(*[torch.arange(-1, nodes)] * nodes)
    result = every[is_canonical(every, rooted)]
    expected = all_trees(n, rooted=rooted)
    assert sorted(result.tolist()) == sorted(expected.tolist())


@pytest.mark.parametrize("rooted", [False, True])
def test_splits_and_children(rooted):
    names = tuple(f"{k:03d}" for k in range(70))  # more than one word
    trees = random_trees(70, 3, rooted=rooted)
    result, words, pairs = splits(trees, rooted), split_words(trees, rooted), children(trees, rooted)
    assert words.shape == (3, trees.shape[1] - 1, 2)
    for t in range(3):
        sides = naive.edges_of(names, trees[t].tolist(), None, rooted)
        assert [frozenset(names[i] for i in row.nonzero().flatten().tolist()) for row in result[t]] == list(sides)
        for k, (first, second) in enumerate(pairs[t].tolist()):
            assert trees[t, first] == trees[t, second] == 70 + k
            leaves = [min(_below(trees[t].tolist(), node, 70)) for node in (first, second)]
            assert leaves[0] < leaves[1]


def _below(parents, node, n):
    def climbs(leaf):
        while leaf not in (node, -1):
            leaf = parents[leaf]
        return leaf == node

    return [leaf for leaf in range(n) if climbs(leaf)]


@pytest.mark.parametrize(("n", "rooted"), [(7, False), (6, True), (80, False)])
def test_robinson_foulds(n, rooted):
    trees = random_trees(n, 12, rooted=rooted)
    result = robinson_foulds(trees.unsqueeze(1), trees, rooted)
    sides = [set(map(tuple, splits(tree, rooted).tolist())) for tree in trees]
    assert result.tolist() == [[len(a ^ b) for b in sides] for a in sides]


@pytest.mark.parametrize("rooted", [False, True])
def test_random_trees_are_uniform(rooted):
    """A chi-square test over all 105 topologies; false alarm rate 1e-4."""
    n = 5 if rooted else 6
    trees = random_trees(n, 21_000, rooted=rooted, generator=torch.Generator().manual_seed(0))
    counts = trees.unique(dim=0, return_counts=True)[1]
    assert len(counts) == 105
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_random_trees_repeat_with_their_generator():
    first, second = (random_trees(9, 5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert (first == second).all()


@pytest.mark.gpu
@pytest.mark.parametrize("rooted", [False, True])
def test_on_a_gpu(rooted):
    trees = random_trees(9, 20, rooted=rooted)
    lengths = torch.rand(20, trees.shape[1] - 1)
    raw = [part.cuda() for part in shuffled(trees, lengths, rooted)]
    result = canonicalize(*raw, rooted=rooted)
    assert result.parents.is_cuda
    assert (result.parents.cpu() == trees).all()
    assert (result.branch_lengths.cpu() == lengths).all()
    assert is_canonical(result.parents, rooted).all()
    assert (splits(result.parents, rooted).cpu() == splits(trees, rooted)).all()
    assert (robinson_foulds(result.parents, result.parents.flip(0), rooted).cpu() >= 0).all()
    assert random_trees(9, 20, device="cuda").is_cuda
    assert len(TreeSet(tuple(NAMES[:9]), trees, rooted).to("cuda").unique()) == len(trees.unique(dim=0))


def test_unique_merges_and_sums_in_order_of_appearance():
    pool = all_trees(5)
    index = torch.tensor([7, 3, 7, 7, 0, 3])
    trees = TreeSet(tuple("abcde"), pool[index], weights=torch.arange(6.0).double())
    result = trees.unique()
    assert (result.parents == pool[[7, 3, 0]]).all()
    assert result.weights.tolist() == [5.0, 6.0, 4.0]
    assert TreeSet(trees.taxa, trees.parents).unique().weights.tolist() == [3.0, 2.0, 1.0]
    assert len(trees[:0].unique()) == 0
    many = TreeSet(tuple("abcdef"), random_trees(6, 200), weights=torch.rand(200).double())
    expected = {}
    for row, weight in zip(many.parents.tolist(), many.weights.tolist(), strict=True):
        expected[tuple(row)] = expected.get(tuple(row), 0.0) + weight
    result = many.unique()
    assert list(map(tuple, result.parents.tolist())) == list(expected)
    assert result.weights.tolist() == pytest.approx(list(expected.values()))


def test_indexing_and_joining():
    trees = TreeSet(
        tuple("abcd"), all_trees(4), weights=torch.tensor([1.0, 2.0, 3.0]).double(), branch_lengths=torch.rand(3, 5)
    )
    assert trees[-1].weights.tolist() == [3.0]
    assert [len(tree) for tree in trees] == [1, 1, 1]
    assert trees[[0, 2]].weights.tolist() == trees[torch.tensor([True, False, True])].weights.tolist() == [1.0, 3.0]
    joined = trees[1:].concatenate(trees[:1])
    assert (joined.branch_lengths == trees.branch_lengths[[1, 2, 0]]).all()
    assert joined.probabilities().tolist() == pytest.approx([2 / 6, 3 / 6, 1 / 6])
    with pytest.raises(IndexError):
        trees[3]


@pytest.mark.parametrize("rooted", [False, True])
def test_relabel_is_a_change_of_names_only(rooted):
    parents = random_trees(6, 10, rooted=rooted)
    trees = TreeSet(tuple("abcdef"), parents, rooted, branch_lengths=torch.rand(10, parents.shape[1] - 1).double())
    names = {"a": "z", "c": "a", "e": "m"}
    result = trees.relabel(names)
    assert result.taxa == tuple("abdfmz")
    assert is_canonical(result.parents, rooted).all()
    for old, new in zip(trees.to_newick(), result.to_newick(), strict=True):
        expected = naive.edges(
            naive.parse("".join(names.get(c, c) if c in "abcdef" else c for c in _plain(old))), rooted
        )
        assert naive.edges(naive.parse(new), rooted) == pytest.approx(expected)


def _plain(line):
    assert "e-" not in line  # exponents would be renamed too
    return line


def test_split_frequencies_and_their_deviation():
    trees = [TreeSet(tuple("abcdef"), random_trees(6, 50), weights=torch.rand(50).double()) for _ in range(3)]
    result = split_frequencies(*trees)
    every = {}
    for r, sample in enumerate(trees):
        for row, p in zip(splits(sample.parents)[:, 6:], sample.probabilities().tolist(), strict=True):
            for side in map(tuple, row.int().tolist()):
                every.setdefault(side, [0.0] * 3)[r] += p
    expected = {sum(2**i * x for i, x in enumerate(side)): f for side, f in every.items()}
    assert set(result.words.flatten().tolist()) == set(expected)
    for word, frequencies in zip(result.words.flatten().tolist(), result.frequencies.t().tolist(), strict=True):
        assert frequencies == pytest.approx(expected[word])
    for least in (0.0, 0.1):
        kept = torch.tensor([f for f in every.values() if max(f) >= least], dtype=torch.float64)
        assert asdsf(*trees, min_frequency=least).item() == pytest.approx(kept.std(1).mean().item())
    assert asdsf(trees[0], trees[0], trees[0]).item() == pytest.approx(0, abs=1e-15)
    assert asdsf(*trees, min_frequency=1.1).item() == 0


TREE = torch.tensor([-1, 5, 5, 4, 0, 4])
SET = TreeSet(tuple("abcd"), TREE.unsqueeze(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: canonicalize(torch.tensor([3.0, 3, -1])), "parents must hold integers"),
        (lambda: canonicalize(torch.tensor([-1])), "no.*binary tree"),
        (lambda: canonicalize(TREE, rooted=True), "6 nodes, which no rooted binary tree"),
        (lambda: canonicalize(TREE, torch.rand(5)), r"branch_lengths has shape \(5,\) but parents \(6,\)"),
        (lambda: canonicalize(torch.tensor([4, 4, 4, 4, -1])), "no binary tree of 3 taxa"),
        (lambda: canonicalize(torch.tensor([-1, 5, 5, 4, 0, 9])), "no binary tree"),
        (lambda: canonicalize(torch.tensor([4, 4, 5, 5, -1, -1])), "no binary tree"),
        (lambda: canonicalize(torch.tensor([4, 4, 4, 6, 5, 6, 5, -1])), "no binary tree"),
        (lambda: canonicalize(torch.tensor([5, 6, 6, 7, 8, -1, 5, 8, 7])), "cycle"),
        (lambda: is_canonical(TREE, rooted=True), "6 nodes but a rooted binary tree has 2n - 1"),
        (lambda: root_on_edge(TREE, torch.tensor(5)), r"edge must lie in 0..4 for 4 taxa, got 5..5"),
        (lambda: robinson_foulds(TREE, all_trees(5)[0]), "first has 6 nodes but second 8"),
        (lambda: num_topologies(1), "n must be an integer of at least 2, got 1"),
        (lambda: random_trees(4, -1), "num_trees must be an integer of at least 0, got -1"),
        (lambda: all_trees(11), "too many to list"),
        (lambda: TreeSet(tuple("bacd"), SET.parents), "taxa must be sorted"),
        (lambda: TreeSet(tuple("aacd"), SET.parents), "taxa holds 'a' twice"),
        (lambda: TreeSet(tuple("abc"), SET.parents), "trees of 4 taxa but taxa has 3 names"),
        (lambda: TreeSet(tuple("abcd"), TREE), r"must be int64 \(T, nodes\)"),
        (lambda: TreeSet(tuple("abcd"), torch.tensor([[-1, 4, 4, 5, 0, 4]])), r"parents\[0\] is not in canonical form"),
        (lambda: TreeSet(SET.taxa, SET.parents, weights=torch.ones(1)), "weights must be float64"),
        (lambda: TreeSet(SET.taxa, SET.parents, weights=-torch.ones(1).double()), "not negative"),
        (lambda: TreeSet(SET.taxa, SET.parents, weights=torch.zeros(1).double()), "weights are all zero"),
        (lambda: TreeSet(SET.taxa, SET.parents, branch_lengths=torch.ones(1, 6)), r"floating point \(1, 5\)"),
        (lambda: TreeSet.from_parents("abca", SET.parents), "taxa holds 'a' twice"),
        (lambda: TreeSet.from_parents("abc", SET.parents), "does not fit 3 taxa"),
        (lambda: TreeSet.from_parents("abcd", SET.parents, branch_lengths=torch.ones(1, 5)), "one length per node"),
        (lambda: SET.concatenate(TreeSet(tuple("abce"), SET.parents)), "different taxa, 'd' among 2"),
        (lambda: SET.concatenate(TreeSet(SET.taxa, all_trees(4, rooted=True), True)), "rooted and unrooted"),
        (lambda: SET.concatenate(SET.unique()), "some of the trees have weights"),
        (lambda: SET.relabel({"x": "y"}), "'x', which is no taxon"),
        (lambda: SET.relabel({"a": "b"}), "'b' twice"),
        (lambda: asdsf(SET), "two or more sets of trees, got 1"),
        (lambda: asdsf(SET, SET[:0]), "none of them empty"),
        (lambda: asdsf(SET, TreeSet(tuple("abce"), SET.parents)), "the same taxa"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
