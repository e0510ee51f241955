"""The support of subsplit networks: what it holds, how it is built, joined, stored and drawn."""

import math
import os
import re

import numpy as np
import pytest
import torch

from pyro_ext.phylo import SubsplitSupport, TreeSet, all_trees, random_trees
from pyro_ext.phylo import support as support_module
from pyro_ext.phylo.support_files import write_arrays
from tests.phylo.brute_force import rooted_subsplits, rootings

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


def subsplits_of(trees, rooted=False):
    if rooted:
        return {s for tree in trees.tolist() for s in rooted_subsplits(tree)}
    return {s for tree in trees.tolist() for rooting in rootings(tree) for s in rooting}


def listed(support):
    """The subsplits of a support as frozensets."""
    layout, segment = support.layout, support.graph.segment

    def clade(i):
        return (
            frozenset(support.taxa.index(name) for name in support.taxa_of(layout.words[i])) if i >= 0 else frozenset()
        )

    rows = zip(layout.sister[segment].tolist(), layout.focal[segment].tolist(), layout.children.tolist(), strict=True)
    return [(clade(s), clade(f), frozenset(map(clade, c))) for s, f, c in rows]


@pytest.mark.parametrize(
    ("n", "num", "rooted"), [(3, 1, False), (5, 4, False), (9, 20, False), (2, 1, True), (8, 10, True)]
)
def test_subsplits_are_those_of_the_trees(n, num, rooted):
    trees = random_trees(n, num, rooted=rooted)
    support = SubsplitSupport.from_trees(trees)
    splits = listed(support)
    assert len(set(splits)) == len(splits) == support.num_parameters
    assert set(splits) == subsplits_of(trees, rooted)
    assert support.num_rootsplits == sum(not sister for sister, _, _ in splits)
    sizes = [len(clade) for _, clade, _ in splits]
    assert sizes == sorted(sizes, reverse=True)
    for i, (_, clade, children) in enumerate(splits):
        graph = support.graph
        first, second = sorted(children, key=min)
        assert graph.smallest[:, i].tolist() == [min(first), min(second)]
        assert graph.child_size[:, i].tolist() == [len(first), len(second)]
        assert graph.smallest_outside[i] == min(set(range(n)) - clade, default=n)
        for child, sister, context in zip(
            (first, second), (second, first), graph.child_segment[:, i].tolist(), strict=True
        ):
            if len(child) > 1:
                assert splits[int(graph.start[context])][:2] == (sister, child)
            else:
                assert context == graph.num_contexts


@pytest.mark.parametrize(("n", "rooted"), [(63, True), (64, False), (64, True), (130, True)])
def test_many_words(n, rooted):
    trees = random_trees(n, 3 if rooted else 1, rooted=rooted)
    assert set(listed(SubsplitSupport.from_trees(trees))) == subsplits_of(trees, rooted)


def test_small_chunks_make_no_difference(monkeypatch):
    trees = random_trees(12, 300)
    whole = SubsplitSupport.from_trees(trees)
    monkeypatch.setattr("pyro_ext.ops.subsplits.collect._ENTRIES", 2000)
    monkeypatch.setattr(support_module, "_CHUNK", 2000)
    assert SubsplitSupport.from_trees(trees) == whole
    assert whole.contains(trees).all()


def test_order_and_repetition_of_trees_make_no_difference():
    trees = random_trees(10, 40)
    support = SubsplitSupport.from_trees(trees)
    assert SubsplitSupport.from_trees(trees[torch.randperm(40)]) == support
    assert SubsplitSupport.from_trees(torch.cat([trees, trees[:7]])) == support
    weights = torch.ones(40)
    weights[3] = 0
    assert SubsplitSupport.from_trees(trees, weights) == SubsplitSupport.from_trees(trees[weights > 0])


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("sisters", [False, True])
def test_union(rooted, sisters):
    trees = random_trees(9, 30, rooted=rooted)
    a, b = (SubsplitSupport.from_trees(part, sisters=sisters) for part in (trees[:20], trees[15:]))
    whole = SubsplitSupport.from_trees(trees, sisters=sisters)
    assert a.union(b) == b.union(a) == whole != a
    assert whole.union(a) == whole


def test_contains_and_coverage():
    trees = all_trees(6)
    support = SubsplitSupport.from_trees(trees[::3])
    held = subsplits_of(trees[::3])
    expected = [any(held.issuperset(rooting) for rooting in rootings(tree)) for tree in trees.tolist()]
    assert support.contains(trees).tolist() == expected
    assert 35 < sum(expected) < 105
    weights = torch.rand(105, dtype=torch.float64)
    coverage = support.coverage(trees, weights)
    everything = subsplits_of(trees)
    inside = weights[torch.tensor(expected)].sum() / weights.sum()
    assert coverage == pytest.approx((sum(expected) / 105, float(inside), len(held & everything) / len(everything)))
    assert SubsplitSupport.from_trees(trees).coverage(trees[:9]).trees == 1


def test_numbers_of_trees():
    assert math.exp(SubsplitSupport.from_trees(all_trees(6)).log_num_rooted_trees) == pytest.approx(945)
    assert SubsplitSupport.from_trees(random_trees(30, 1, rooted=True)).log_num_rooted_trees == 0


def test_files(tmp_path):
    trees = TreeSet(NAMES, random_trees(7, 12))
    for options in ({}, {"sisters": False}):
        support = SubsplitSupport.from_trees(trees, **options)
        path = tmp_path / "support.npz"
        support.save(path)
        assert SubsplitSupport.load(path) == support
        assert os.listdir(tmp_path) == ["support.npz"]


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        SubsplitSupport.from_trees(random_trees(5, 2)).save(tmp_path / "support.npz")
    assert not os.listdir(tmp_path)


def test_bad_files(tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(ValueError, match=r"file\.npz is no file of subsplits, or damaged"):
        SubsplitSupport.load(path)
    np.savez(path, a=np.zeros(2))
    with pytest.raises(ValueError, match=r"file\.npz is no file of subsplits"):
        SubsplitSupport.load(path)
    arrays = SubsplitSupport.from_trees(random_trees(5, 2)).to_arrays()
    write_arrays(path, {name: x for name, x in arrays.items() if name != "clades"})
    with pytest.raises(ValueError, match=r"file\.npz has no clades"):
        SubsplitSupport.load(path)
    for options, version in (({}, 0), ({"version": 99}, 99), ({"version": [1, 1]}, "")):
        np.savez(path, kind="pyro_ext subsplits", **options)
        with pytest.raises(ValueError, match=rf"file\.npz has version .*{version}.*, not 1 to 1: read it with a later"):
            SubsplitSupport.load(path)
    np.savez(path, kind="pyro_ext subsplits", version=1, taxa=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"taxa\.npy holds objects of Python"):
        SubsplitSupport.load(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"file\.npz is no file of subsplits, or damaged: it is no \.npz"):
        SubsplitSupport.load(path)
    with pytest.raises(FileNotFoundError):
        SubsplitSupport.load(tmp_path / "missing.npz")


ARRAYS = SubsplitSupport.from_trees(random_trees(5, 2, generator=torch.Generator().manual_seed(0))).to_arrays()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("splits", lambda x: x[:-1], "nowhere split"),
        ("splits", lambda x: x + 100, "do not refer to"),
        ("splits", lambda x: x[:, ::-1], "do not refer to"),
        ("splits", lambda x: x[:, [0, 1, 2, 2]], "does not part its clade in two, beside its sister"),
        ("splits", lambda x: x[:, [1, 1, 2, 3]], "does not part its clade in two, beside its sister"),
        ("splits", lambda x: x[:0], "splits have shape (0, 4)"),
        ("splits", lambda x: x * 1.5, "must hold integers"),
        ("clades", lambda x: np.concatenate([x, x[:1]]), "a clade is empty, or there twice"),
        ("clades", lambda x: x * 0, "a clade is empty, or there twice"),
        ("clades", lambda x: x + 32, "are no sets of 5 taxa"),
        ("clades", lambda x: x[:, [0, 0]], "are no sets of 5 taxa"),
        ("taxa", lambda x: x[::-1], "must be different and sorted"),
        ("taxa", lambda x: x[:4], "are no sets of 4 taxa"),
    ],
)
def test_files_that_hold_no_support(tmp_path, name, change, message):
    path = tmp_path / "file.npz"
    write_arrays(path, {**ARRAYS, name: change(ARRAYS[name])})
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        SubsplitSupport.load(path)
    assert str(error.value).startswith(str(path))


def test_a_support_is_checked_by_its_own_checks(tmp_path):
    for trees in (random_trees(70, 3), random_trees(9, 3, rooted=True)):
        for sisters in (False, True):
            support = SubsplitSupport.from_trees(trees, sisters=sisters)
            support.save(tmp_path / "file.npz")
            assert SubsplitSupport.load(tmp_path / "file.npz") == support


def test_networkx():
    networkx = pytest.importorskip("networkx")
    trees = random_trees(7, 9)
    support = SubsplitSupport.from_trees(TreeSet(NAMES, trees))
    graph = support.to_networkx()
    assert networkx.is_directed_acyclic_graph(graph)
    assert graph.number_of_edges() == support.num_parameters
    assert graph.out_degree("root") == support.num_rootsplits
    assert sorted(p for _, _, p in graph.edges(data="parameter")) == [*range(support.num_parameters)]
    held = listed(support)
    for parent, (first, second), data in graph.edges(data=True):
        clades = [frozenset(map(NAMES.index, clade)) for clade in (first, second, data["clade"])]
        sister, clade, children = held[data["parameter"]]
        assert clades[2] == clade
        assert {clades[0], clades[1]} == children
        if parent != "root":
            assert {frozenset(map(NAMES.index, part)) for part in parent} == {sister, clade}
    with pytest.raises(ValueError, match="sisters=True"):
        SubsplitSupport.from_trees(trees, sisters=False).to_networkx()


@pytest.mark.gpu
def test_on_cuda():
    trees = random_trees(12, 50)
    support = SubsplitSupport.from_trees(trees)
    there = support.to("cuda")
    assert there == support == SubsplitSupport.from_trees(trees.cuda()) == there.to("cpu")
    assert there.contains(trees.cuda()).all()


TREES = random_trees(5, 3, generator=torch.Generator().manual_seed(0))
ROOTED = random_trees(5, 3, rooted=True, generator=torch.Generator().manual_seed(0))
BAD = {
    "no trees": (lambda: SubsplitSupport.from_trees(TREES[:0]), "trees has shape (0, 8)"),
    "floats": (lambda: SubsplitSupport.from_trees(TREES.float()), "dtype torch.float32"),
    "not canonical": (lambda: SubsplitSupport.from_trees(TREES.flip(1)), "trees[0] = "),
    "a negative weight": (lambda: SubsplitSupport.from_trees(TREES, [1, -1, 1]), "weights holds -1.0"),
    "no weight": (lambda: SubsplitSupport.from_trees(TREES, [0, 0, 0]), "weights are all zero"),
    "NaN": (lambda: SubsplitSupport.from_trees(TREES, [1, math.nan, 0]), "weights holds nan"),
    "too few weights": (lambda: SubsplitSupport.from_trees(TREES, [1.0]), "weights has shape (1,) but there are 3"),
    "unrooted trees": (lambda: SubsplitSupport.from_trees(TREES, rooted=True), "trees are unrooted but rooted=True"),
    "rooted trees": (lambda: SubsplitSupport.from_trees(ROOTED, rooted=False), "trees are rooted but rooted=False"),
    "too many names": (lambda: SubsplitSupport.from_trees(TREES, taxa="abcdef"), "give 5 different names"),
    "unsorted names": (lambda: SubsplitSupport.from_trees(TREES, taxa="edcba"), "in sorted order"),
    "other names": (
        lambda: SubsplitSupport.from_trees(TREES, taxa="abcde").contains(TreeSet(("v", "w", "x", "y", "z"), TREES)),
        "trees and support differ in taxa, such as 'a', 'b', 'c'",
    ),
    "another kind": (lambda: SubsplitSupport.from_trees(TREES).contains(ROOTED), "trees are rooted"),
    "union of two kinds": (
        lambda: SubsplitSupport.from_trees(TREES).union(SubsplitSupport.from_trees(ROOTED)),
        "unite supports of the same kind",
    ),
    "unknown taxon": (lambda: SubsplitSupport.from_trees(TREES).clade(["0", "z"]), "clade holds ['z']"),
    "taxon given twice": (lambda: SubsplitSupport.from_trees(TREES).clade(["0", 0]), "names a taxon twice"),
    "empty clade": (lambda: SubsplitSupport.from_trees(TREES).clade([]), "give one or more"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_stored_where_the_default_device_is_another(tmp_path):
    trees = all_trees(5)
    support = SubsplitSupport.from_trees(trees)
    support.save(tmp_path / "support.npz")
    with torch.device("meta"):
        assert SubsplitSupport.from_arrays(support.to_arrays()) == support
        assert SubsplitSupport.load(tmp_path / "support.npz") == support
        assert SubsplitSupport.from_trees(trees) == support
        assert support.contains(trees).all()
        assert support.clade([0, 1]).device.type == "cpu"
