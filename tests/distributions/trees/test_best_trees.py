"""Most probable trees, credible sets and levels, entropies and clade credibility, against lists of all trees."""

import math
import re
from functools import cache

import pytest
import torch

from pyro_ext.distributions import (
    ConditionalCladeDistribution,
    RankedTrees,
    SearchLimitError,
    SubsplitBayesianNetwork,
    TreeFrequency,
)
from pyro_ext.phylo import SubsplitSupport, random_trees, splits
from pyro_ext.phylo import all_trees as list_trees


@cache
def all_trees(n, rooted=False):
    return list_trees(n, rooted=rooted)


@cache
def support_of(trees, shape, sisters):
    return SubsplitSupport.from_trees(
        torch.frombuffer(bytearray(trees), dtype=torch.int64).view(shape), sisters=sisters
    )


def build(kind, trees, *batch_shape, dtype=torch.float64, scale=1.0, holes=False):
    if kind == "frequencies":
        return TreeFrequency(trees, scale * torch.randn(*batch_shape, len(trees), dtype=dtype))
    support = support_of(trees.numpy().tobytes(), trees.shape, kind != "clades")
    logits = scale * torch.randn(*batch_shape, support.num_parameters, dtype=dtype)
    if holes:
        degree = support.graph.start.diff()[support.graph.segment]
        first = torch.arange(len(degree)) == support.graph.start[support.graph.segment]
        logits[..., (degree > 2) & ~first & (torch.rand(len(degree)) < 0.3)] = -math.inf
    if kind == "clades":
        return ConditionalCladeDistribution(support, logits)
    return SubsplitBayesianNetwork(support, logits, rooted=None if kind == "network" else kind == "rooted")


def inner_roots(**options):
    """Networks whose roots lie on inner edges only."""
    d = build("network", all_trees(6), 12, scale=0.5, **options)
    graph = d.graph
    size = graph.child_size[:, : graph.level_splits[1]]
    d.logits[..., : size.shape[1]][..., (size == 1).any(0)] = -math.inf
    return SubsplitBayesianNetwork(d.subsplits, d.logits)


FAMILIES = {
    "unrooted, all 945 trees": lambda **o: build("network", all_trees(7), **o),
    "unrooted, batch": lambda **o: build("network", all_trees(6), 2, 1, **o),
    "unrooted, few trees": lambda **o: build("network", random_trees(9, 4), **o),
    "unrooted, holes": lambda **o: build("network", all_trees(6), holes=True, **o),
    "unrooted, rooted on inner edges, batch": inner_roots,
    "unrooted, of rooted trees": lambda **o: build("unrooted", all_trees(5, rooted=True)[::2], **o),
    "rooted": lambda **o: build("network", all_trees(6, rooted=True), **o),
    "rooted, few trees, batch": lambda **o: build("network", all_trees(5, rooted=True)[::3], 2, **o),
    "rooted, of unrooted trees, holes": lambda **o: build("rooted", all_trees(5), holes=True, **o),
    "clades, unrooted": lambda **o: build("clades", all_trees(6)[::4], 2, **o),
    "clades, rooted": lambda **o: build("clades", all_trees(5, rooted=True), **o),
    "frequencies": lambda **o: build("frequencies", all_trees(5), 3, **o),
}


def enumerated(d):
    """All trees ``(T, N)`` and their log-probabilities in float64, one column for each element of the batch."""
    trees = d.enumerate_support(expand=False)
    exact = d._in_float64()
    return trees.flatten(0, -2), exact.log_prob(trees).reshape(len(trees), -1)


def columns(ranked, d):
    count = len(ranked.values)
    return ranked.values.reshape(count, -1, *d.event_shape).unbind(1), ranked.log_prob.reshape(count, -1).unbind(1)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("k", [7, 100_000])
def test_most_probable_trees(name, k):
    dtype = torch.float32 if k == 7 else torch.float64
    d = FAMILIES[name](dtype=dtype)
    ranked = d.most_probable_trees(k)
    assert isinstance(ranked, RankedTrees)
    assert ranked.log_prob.dtype == ranked.log_rest.dtype == dtype
    trees, log_prob = enumerated(d)
    for values, found, column, rest in zip(
        *columns(ranked, d), log_prob.unbind(-1), ranked.log_rest.flatten(), strict=True
    ):
        expected, order = column.sort(descending=True)
        count = min(k, int((column > -math.inf).sum()))
        assert torch.equal(values[:count], trees[order[:count]])
        torch.testing.assert_close(found[:count], expected[:count].to(dtype), rtol=0, atol=1e-12)
        left = expected[count:].logsumexp(0) if count < len(expected) else torch.tensor(-math.inf)
        torch.testing.assert_close(rest.double().exp(), left.double().exp(), rtol=0, atol=1e-6)
        assert (found[count:] == -math.inf).all()
        assert (values[count:] == values[0]).all()


def test_all_10395_rooted_trees_of_seven_taxa():
    d = build("network", all_trees(7, rooted=True))
    trees, log_prob = enumerated(d)
    expected, order = log_prob[:, 0].sort(descending=True)
    ranked = d.most_probable_trees(20_000)
    assert torch.equal(ranked.values, trees[order])
    torch.testing.assert_close(ranked.log_prob, expected, rtol=0, atol=1e-12)
    size = int((expected.exp().cumsum(0) < 0.95).sum()) + 1
    assert torch.equal(d.credible_set().values, trees[order[:size]])
    check_clade_credibility(d)


@pytest.mark.parametrize("name", FAMILIES)
def test_map_trees(name, dtype):
    d = FAMILIES[name](dtype=dtype)
    _, log_prob = enumerated(d)
    best = d._in_float64().log_prob(d.map_tree()).flatten()
    torch.testing.assert_close(best, log_prob.amax(0), rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)
    assert torch.equal(d.mode, d.map_tree())
    assert d.map_tree().shape == d.batch_shape + d.event_shape
    assert torch.equal(d._in_float64().log_prob(d.most_probable_trees(1).values[0]).flatten(), log_prob.amax(0))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("level", [0.3, 0.95, 1])
def test_credible_sets(name, level):
    d = FAMILIES[name](dtype=torch.float32 if level == 0.3 else torch.float64)
    trees, log_prob = enumerated(d)
    ranked = d.credible_set(level)
    for values, found, column in zip(*columns(ranked, d), log_prob.unbind(-1), strict=True):
        expected, order = column.sort(descending=True)
        possible = int((column > -math.inf).sum())
        size = possible if level == 1 else int((expected.exp().cumsum(0) < level).sum()) + 1
        assert int((found > -math.inf).sum()) == size
        assert torch.equal(values[:size], trees[order[:size]])


@pytest.mark.parametrize("name", FAMILIES)
def test_credible_levels(name):
    d = FAMILIES[name]()
    trees, log_prob = enumerated(d)
    asked = trees[torch.randperm(len(trees))[:40]]
    place = (asked.unsqueeze(1) == trees).all(-1).int().argmax(-1)
    ones = (1,) * len(d.batch_shape)
    levels = d.credible_level(asked.view(len(asked), *ones, -1))
    assert levels.shape == (len(asked), *d.batch_shape)
    for found, column in zip(levels.reshape(len(asked), -1).unbind(-1), log_prob.unbind(-1), strict=True):
        own = column[place].unsqueeze(-1)
        expected = torch.where(column >= own - 1e-10, column.exp(), 0).sum(-1)
        expected = torch.where(own.squeeze(-1) == -math.inf, 1.0, expected)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_levels_of_single_trees_and_of_trees_outside_the_support():
    d = build("network", all_trees(5)[:4], dtype=torch.float32)
    best = d.most_probable_trees(2)
    assert d.credible_level(best.values[0]).shape == ()
    torch.testing.assert_close(d.credible_level(best.values), best.log_prob.exp().cumsum(0))
    outside = all_trees(5)[~d.subsplits.contains(all_trees(5))]
    assert len(outside)
    assert (d.credible_level(outside) == 1).all()
    assert d.credible_level(outside[:0]).shape == (0,)
    assert d.expand((2, 3)).credible_level(best.values[0]).shape == (2, 3)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name.startswith("unrooted")])
def test_entropy_of_unrooted_trees(name, dtype):
    d = FAMILIES[name](dtype=dtype)
    _, log_prob = enumerated(d)
    expected = torch.special.entr(log_prob.exp()).sum(0).view(d.batch_shape)
    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 2e-5}
    torch.testing.assert_close(d.entropy().double(), expected, **tolerance)
    for limit in (1, 20, 200, 100_000):
        bounds = d.entropy_bounds(limit)
        assert bounds.lower.dtype == dtype
        assert (bounds.lower <= expected + 1e-6).all()
        assert (bounds.upper >= expected - 1e-6).all()
    torch.testing.assert_close(bounds.lower.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(bounds.upper.double(), expected, rtol=0, atol=1e-6)


def test_bounds_of_the_entropy_of_rooted_trees_are_equal():
    d = FAMILIES["rooted, few trees, batch"]()
    assert torch.equal(*d.entropy_bounds())
    torch.testing.assert_close(d.entropy_bounds().lower, d.entropy())


def test_the_entropy_of_unrooted_trees_has_a_gradient():
    support = SubsplitSupport.from_trees(all_trees(4)[:2])
    logits = torch.randn(support.num_parameters, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: SubsplitBayesianNetwork(support, x).entropy(), logits, fast_mode=True)


def check_clade_credibility(d):
    rooted = d.event_shape[0] % 2 == 1
    trees, log_prob = enumerated(d)
    n = trees.shape[1] // 2 + 1
    tolerance = 1e-5 if d.logits.dtype == torch.float32 else 1e-11
    inner = splits(trees, rooted)[:, n:]  # (T, clades, n)
    clades, number = inner.flatten(0, 1).unique(dim=0, return_inverse=True)
    number = number.view(inner.shape[:2])
    found = d.max_clade_credibility_tree().reshape(-1, trees.shape[1])
    for tree, column in zip(found, log_prob.unbind(-1), strict=True):
        marginal = torch.zeros(len(clades), dtype=torch.float64)
        marginal.index_add_(0, number.flatten(), column.exp().repeat_interleave(inner.shape[1]))
        score = marginal.log()[number].sum(-1).masked_fill(column == -math.inf, -math.inf)
        (place,) = (trees == tree).all(-1).nonzero().squeeze(-1).tolist()
        assert float(score[place]) == pytest.approx(float(score.max()), abs=tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_clade_credibility(name, dtype):
    d = FAMILIES[name](dtype=dtype)
    assert d.max_clade_credibility_tree().shape == d.batch_shape + d.event_shape
    check_clade_credibility(d)


def test_clade_credibility_and_probability_may_disagree():
    """Three of five samples have the clade 12, but not the same tree."""
    trees = all_trees(4, rooted=True)
    with_clade = splits(trees, True)[:, 4:].eq(torch.tensor([False, True, True, False])).all(-1).any(-1)
    weights = torch.zeros(len(trees))
    weights[with_clade.nonzero().squeeze(-1)[:3]] = 1.0
    weights[(~with_clade).nonzero().squeeze(-1)[0]] = 2.0
    d = TreeFrequency.from_trees(trees, weights)
    assert bool(with_clade[(trees == d.max_clade_credibility_tree()).all(-1)])
    assert not bool(with_clade[(trees == d.map_tree()).all(-1)])


@pytest.mark.parametrize("rooted", [False, True])
def test_equally_probable_trees_are_in_the_order_of_their_parent_vectors(rooted):
    trees = all_trees(5, rooted=rooted)
    d = SubsplitBayesianNetwork.from_trees(trees)
    log_prob = d.log_prob(trees)
    torch.testing.assert_close(log_prob, torch.full_like(log_prob, -math.log(len(trees))))
    expected = torch.tensor(sorted(trees.tolist()))
    for k in (1, 4, len(trees)):
        assert torch.equal(d.most_probable_trees(k).values, expected[:k])
    assert len(d.credible_set(0.5).values) == math.ceil(len(trees) / 2)
    torch.testing.assert_close(d.credible_level(trees), torch.ones_like(log_prob))


def test_one_tree_only():
    for rooted in (False, True):
        d = SubsplitBayesianNetwork.from_trees(random_trees(7, 1, rooted=rooted))
        ranked = d.most_probable_trees(3)
        assert ranked.values.shape[0] == 1
        assert float(ranked.log_rest) == -math.inf
        assert torch.equal(d.max_clade_credibility_tree(), d.map_tree())
        assert float(d.entropy()) == pytest.approx(0, abs=1e-12)
    tiny = SubsplitBayesianNetwork.from_trees(random_trees(3, 1))
    assert tiny.credible_set().values.shape == (1, 4)
    assert tiny.entropy_bounds().upper == 0


@pytest.mark.slow
def test_caterpillars_of_very_many_taxa():
    """Deeper than the stack of Python, were the search recursive."""
    n = 1010
    chain = [-1, *range(n, 2 * n - 2), 2 * n - 3, 0, *range(n, 2 * n - 3)]
    d = SubsplitBayesianNetwork.from_trees(torch.tensor([chain])).rooted_network()
    assert len(d.most_probable_trees(5).values) == 5


def test_the_limit_of_a_search():
    """Flat networks of many trees; those proved before the limit are right."""
    d = build("network", random_trees(12, 60), scale=2.0)
    with pytest.raises(SearchLimitError, match="limit=1000 rooted trees prove the") as error:
        d.most_probable_trees(900, limit=1000)
    proved = error.value.proved
    count = len(proved.values)
    assert 0 < count < 900
    more = d.most_probable_trees(count)
    assert torch.equal(more.values, proved.values)
    with pytest.raises(SearchLimitError, match="prove no tree, not all of the k=1"):
        d.most_probable_trees(1, limit=1)
    with pytest.raises(SearchLimitError, match="ask for a lower level, or raise the limit"):
        d.credible_set(1, limit=500)
    rare = d.most_probable_trees(count).values[-1:]
    with pytest.raises(SearchLimitError, match="of a level above that"):
        d.credible_level(rare, limit=2)


Q = SubsplitBayesianNetwork(SubsplitSupport.from_trees(all_trees(5)))
BAD = {
    "no trees": (lambda: Q.most_probable_trees(0), "k must be an integer of at least 1, got 0"),
    "half a tree": (lambda: Q.most_probable_trees(1.5), "k must be an integer of at least 1, got 1.5"),
    "no search": (lambda: Q.most_probable_trees(1, limit=0), "limit must be an integer of at least 1, got 0"),
    "nothing": (lambda: Q.credible_set(0.0), "level must be a number in (0, 1], got 0.0"),
    "per cent": (lambda: Q.credible_set(95), "level must be a number in (0, 1], got 95"),
    "no bounds": (lambda: Q.entropy_bounds(0), "limit must be an integer of at least 1, got 0"),
    "no tree": (lambda: Q.credible_level(torch.zeros(8, dtype=torch.int64)), "TreeTopology()"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
