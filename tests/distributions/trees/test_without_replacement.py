"""Distinct trees drawn without replacement: their masses, the frequencies of ordered pairs, supports that run out."""

import itertools
import math

import pytest
import torch

from pyro_ext.distributions import ConditionalCladeDistribution, SubsplitBayesianNetwork, TreeFrequency
from pyro_ext.distributions.goodness_of_fit import chi_square_p_value
from pyro_ext.distributions.trees import _without_replacement
from pyro_ext.ops.subsplits import rows
from pyro_ext.phylo import SubsplitSupport, all_trees, random_trees


def network(trees, *batch_shape, dtype=torch.float64, scale=1.5, **options):
    support = SubsplitSupport.from_trees(trees)
    logits = scale * torch.randn(*batch_shape, support.num_parameters, dtype=dtype)
    return SubsplitBayesianNetwork(support, logits, **options)


def clades(trees, *batch_shape, dtype=torch.float64):
    support = SubsplitSupport.from_trees(trees, sisters=False)
    return ConditionalCladeDistribution(support, torch.randn(*batch_shape, support.num_parameters, dtype=dtype))


FAMILIES = {
    "unrooted": network,
    "rooted": lambda trees, *batch, **options: network(trees, *batch, rooted=True, **options),
    "clades": clades,
    "frequencies": lambda trees, *batch, dtype=torch.float64: TreeFrequency(
        trees, torch.randn(*batch, len(trees), dtype=dtype)
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("k", [1, 4, 30])
def test_masses(name, k, dtype):
    d = FAMILIES[name](all_trees(6), 2, 3, dtype=dtype)
    draws = d.sample_without_replacement(k)
    assert draws.values.shape == (k, 2, 3, *d.event_shape)
    assert d.support.check(draws.values).all()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(draws.log_prob, d.log_prob(draws.values), rtol=0, atol=100 * tolerance)
    total = torch.cat([draws.log_prob, draws.log_rest.unsqueeze(0)]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=tolerance)
    for i in range(2):
        for j in range(3):
            assert len({tuple(x) for x in draws.values[:, i, j].tolist()}) == k


@pytest.mark.parametrize("name", FAMILIES)
def test_frequencies_of_ordered_pairs(name):
    """Pairs follow p(a) p(b) / (1 - p(a)); a chi-square test, false alarms 1e-6."""
    d = FAMILIES[name](all_trees(4))
    drawn = d.expand((20_000,)).sample_without_replacement(2).values
    support = d.enumerate_support()
    size = len(support)
    number = (drawn.unsqueeze(2) == support).all(-1).int().argmax(-1)
    p = d.log_prob(support).exp()
    pairs = p.unsqueeze(-1) * p / (1 - p.unsqueeze(-1))
    apart = ~torch.eye(size, dtype=torch.bool)
    counts = (number[0] * size + number[1]).bincount(minlength=size**2).reshape(size, size)
    assert counts.diagonal().sum() == 0
    assert float(chi_square_p_value(counts[apart].unsqueeze(-1), pairs[apart].unsqueeze(-1))) > 1e-6


def test_few_independent_draws_are_continued_by_a_search(monkeypatch):
    """Ordered triples follow p(a) p(b) p(c) / ((1 - p(a)) (1 - p(a) - p(b))); chi-square test, false alarms 1e-6."""
    monkeypatch.setattr(_without_replacement, "_DRAWS_PER_TREE", 1)
    torch.manual_seed(5)
    d = network(all_trees(4))
    drawn = d.expand((20_000,)).sample_without_replacement(3).values
    support = d.enumerate_support()
    number = (drawn.unsqueeze(2) == support).all(-1).int().argmax(-1)
    p = d.log_prob(support).exp()
    orders = torch.tensor([*itertools.permutations(range(3))])
    a, b, _ = p[orders].unbind(-1)
    counts = (number.t().unsqueeze(1) == orders).all(-1).sum(0)
    assert counts.sum() == 20_000
    assert float(chi_square_p_value(counts.unsqueeze(-1), (a * b / (1 - a)).unsqueeze(-1))) > 1e-6


def test_a_tree_with_many_rootings_is_drawn_by_the_sum_of_them():
    """The first of several draws follows the distribution of unrooted trees, whichever rooting was found first."""
    d = network(all_trees(5), scale=0.3)
    first = d.expand((10_000,)).sample_without_replacement(3).values[0]
    support = d.enumerate_support()
    counts = (first.unsqueeze(1) == support).all(-1).sum(0)
    assert float(chi_square_p_value(counts.unsqueeze(-1), d.log_prob(support).exp().unsqueeze(-1))) > 1e-6


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("k", [15, 40])
def test_all_of_them(name, k):
    trees = all_trees(5)
    d = FAMILIES[name](trees, 2)
    draws = d.sample_without_replacement(k * 7 if name == "rooted" else k)
    size = len(d.enumerate_support())
    for i in range(2):
        assert len({tuple(x) for x in draws.values[:, i].tolist()}) == size
    assert draws.log_rest.tolist() == [-math.inf] * 2
    torch.testing.assert_close(draws.log_prob.exp().sum(0)[:2], torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("k", [2, 14])
def test_what_is_left_is_exact_where_little_is(k):
    """The mass left is right to eleven digits when it is a millionth of a millionth."""
    support = SubsplitSupport.from_trees(all_trees(5))
    logits = torch.zeros(support.num_parameters, dtype=torch.float64)
    logits[support.graph.start[:-1]] = 32.0
    d = SubsplitBayesianNetwork(support, logits)
    draws = d.sample_without_replacement(k)
    values = d.enumerate_support()
    others = ~(values.unsqueeze(1) == draws.values).all(-1).any(-1)
    expected = d.log_prob(values)[others].logsumexp(0)
    assert expected < -25
    torch.testing.assert_close(draws.log_rest, expected, rtol=1e-11, atol=0)


def test_fewer_trees_for_some_of_the_batch():
    trees = all_trees(4)
    support = SubsplitSupport.from_trees(trees)
    one = SubsplitBayesianNetwork.from_trees(trees[:1], support=support)
    logits = torch.stack([one.logits, torch.zeros_like(one.logits)])
    d = SubsplitBayesianNetwork(support, logits)
    draws = d.sample_without_replacement(3)
    possible = (d.log_prob(trees.unsqueeze(1)) > -math.inf).sum(0)
    assert possible.tolist() == [1, 3]
    assert (draws.log_prob > -math.inf).sum(0).tolist() == possible.tolist()
    assert (draws.log_rest == -math.inf).all()
    for i, num in enumerate(possible.tolist()):
        assert torch.equal(draws.values[num:, i], draws.values[:1, i].expand(3 - num, -1))


def test_many_taxa():
    d = network(random_trees(60, 200), scale=0.1)
    draws = d.sample_without_replacement(5)
    assert len({tuple(x) for x in draws.values.tolist()}) == 5
    torch.testing.assert_close(draws.log_prob, d.log_prob(draws.values))
    total = torch.cat([draws.log_prob, draws.log_rest.unsqueeze(0)]).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_bad_sizes(name, k):
    with pytest.raises(ValueError, match="k"):
        FAMILIES[name](all_trees(4)).sample_without_replacement(k)


def test_trees_whose_codes_collide_are_told_apart(monkeypatch):
    d = network(all_trees(5), 4)
    torch.manual_seed(3)
    expected = d.sample_without_replacement(3).values
    monkeypatch.setattr(rows, "clade_codes", lambda n, device: torch.zeros(n, dtype=torch.int64))
    torch.manual_seed(3)
    assert torch.equal(d.sample_without_replacement(3).values, expected)
