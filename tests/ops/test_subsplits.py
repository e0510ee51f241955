"""Subsplits of batches of trees, by tensor operations, against walks over each tree."""

import math

import pytest
import torch

from pyro_ext.ops.subsplits import rows as row_module
from pyro_ext.ops.subsplits.bits import clade_sizes, complements, leaf_words, members, smallest_leaves, sum_codes
from pyro_ext.ops.subsplits.collect import CodeCollisionError, _collect, collect_splits
from pyro_ext.ops.subsplits.keys import clade_codes, find_keys, key_table, subsplit_keys
from pyro_ext.ops.subsplits.relations import relations_of, sum_above, sum_below
from pyro_ext.ops.subsplits.rootings import index_trees, log_prob_rootings, subsplits_of, with_constants
from pyro_ext.ops.subsplits.rows import distinct_rows, row_kinds
from pyro_ext.phylo import random_trees
from tests.phylo.brute_force import rooted_subsplits, rootings


def code_of(clade, codes):
    return int(sum((codes[i] for i in clade), start=torch.tensor(0)))


def keys_of(subsplits, codes):
    """Write subsplits as keys, one at a time."""
    keys = []
    for sister, clade, children in subsplits:
        child = min(code_of(c, codes) for c in children)
        keys.append(subsplit_keys(*torch.tensor([code_of(sister, codes), code_of(clade, codes), child])))
    return torch.stack(keys)


@pytest.mark.parametrize("n", [3, 4, 5, 9, 65])
def test_all_rootings(n):
    trees = random_trees(n, 1 if n > 9 else 8)
    codes = clade_codes(n)
    ours, _ = subsplits_of(trees, codes, "unrooted")
    assert (ours.used.sum(-1) == 9 * n - 21).all()
    keys = subsplit_keys(*ours[:3])
    table = key_table(keys[ours.used].unique())
    log_theta = torch.randn(len(table.keys) - 1, dtype=torch.float64)
    index = index_trees(trees, codes, table, "unrooted")
    terms = with_constants(log_theta)[index.position]
    log_prob = log_prob_rootings(terms, index.relations)
    for row, tree in enumerate(trees.tolist()):
        for edge, subsplits in list(enumerate(rootings(tree)))[:: 1 + n // 20]:
            expected = log_theta[find_keys(table, keys_of(subsplits, codes))].sum()
            torch.testing.assert_close(log_prob[row, edge], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 9, 70])
def test_rooted_trees(n):
    trees, codes = random_trees(n, 4, rooted=True), clade_codes(n)
    ours, _ = subsplits_of(trees, codes, "rooted")
    assert ours.used.all()
    assert ours.focal.shape == (4, n - 1)
    for row, tree in enumerate(trees.tolist()):
        expected = keys_of(rooted_subsplits(tree), codes)
        assert torch.equal(subsplit_keys(*ours[:3])[row].sort().values, expected.sort().values)


def test_a_missing_subsplit_costs_only_the_rootings_that_have_it():
    tree = random_trees(7, 1)
    codes = clade_codes(7)
    ours, _ = subsplits_of(tree, codes, "unrooted")
    keys = subsplit_keys(*ours[:3])[ours.used]
    lists = [keys_of(subsplits, codes) for subsplits in rootings(tree[0].tolist())]
    for dropped in keys.tolist():
        table = key_table(keys[keys != dropped])
        index = index_trees(tree, codes, table, "unrooted")
        log_prob = log_prob_rootings(with_constants(torch.zeros(len(keys) - 1))[index.position], index.relations)[0]
        expected = [-math.inf if dropped in rooting.tolist() else 0.0 for rooting in lists]
        assert log_prob.tolist() == expected


def test_sums_over_caterpillars():
    """The tallest trees: the steps of doubling must reach from the top to the bottom."""
    for n in range(3, 20):
        parents = torch.tensor([[-1, *range(n, 2 * n - 2), 2 * n - 3, 0, *range(n, 2 * n - 3)]])
        relations = relations_of(parents, n)
        x = torch.randn(1, n - 1, dtype=torch.float64)
        x[0, -1] = 0
        below, above = sum_below(x, relations.jumps)[0, :-1], sum_above(x, relations.jumps)[0, :-1]
        torch.testing.assert_close(below, x[0, :-1].flip(0).cumsum(0).flip(0))
        torch.testing.assert_close(above, x[0, :-1].cumsum(0))


def test_key_table():
    keys = torch.randint(-(2**63), 2**63 - 1, (5000,)).unique()[torch.randperm(5000)]
    table = key_table(keys)
    assert torch.equal(find_keys(table, keys.view(50, -1)).flatten(), torch.arange(5000))
    largest = torch.iinfo(torch.int64).max
    others = torch.cat([keys + 1, torch.tensor([-largest - 1, largest, 0])])
    others = others[~torch.isin(others, keys)]
    assert (find_keys(table, others) == 5000).all()
    assert find_keys(key_table(torch.tensor([5])), torch.tensor([4, 5, 6])).tolist() == [1, 0, 1]


@pytest.mark.parametrize("n", [5, 63, 64, 130])
def test_bits_of_clades(n):
    inside = torch.rand(20, n) < 0.3
    inside[0], inside[1] = False, True
    words = (leaf_words(n).unsqueeze(0) * inside.unsqueeze(-1)).sum(1)
    assert torch.equal(members(words, n), inside)
    assert torch.equal(clade_sizes(words), inside.sum(-1))
    assert smallest_leaves(words, n).tolist() == [row.index(True) if any(row) else n for row in inside.tolist()]
    assert torch.equal(members(complements(words, n), n), ~inside)
    codes = clade_codes(n)
    assert torch.equal(sum_codes(words, codes), (inside * codes).sum(-1))


def test_codes_that_collide_are_noticed():
    trees = random_trees(8, 30)
    expected = collect_splits(trees, 8, "unrooted")
    for codes in (torch.ones(8, dtype=torch.int64), torch.arange(8), torch.randint(-8, 8, (8,))):
        with pytest.raises(CodeCollisionError):
            _collect(trees, codes, "unrooted")
    again = _collect(trees, clade_codes(8, seed=3), "unrooted")
    assert torch.equal(again.words.unique(dim=0), expected.words.unique(dim=0))
    assert len(again.splits) == len(expected.splits)


def test_distinct_rows():
    rows = torch.randint(0, 3, (200, 4))
    distinct, number = distinct_rows(rows)
    assert torch.equal(distinct[number], rows)
    assert len(distinct) == len(rows.unique(dim=0))


def test_kinds_of_rows(monkeypatch):
    rows = torch.randint(0, 3, (200, 4))
    kind, collide = row_kinds(rows)
    assert not collide
    expected = (rows.unsqueeze(0) == rows.unsqueeze(1)).all(-1)
    assert torch.equal(kind.unsqueeze(0) == kind.unsqueeze(1), expected)
    monkeypatch.setattr(row_module, "clade_codes", lambda n, device: torch.zeros(n, dtype=torch.int64))
    kind, collide = row_kinds(rows)
    assert collide
    assert not row_kinds(rows[:1].expand(5, -1))[1]
