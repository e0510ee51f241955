"""Exact entropy, modes, marginals, divergences and conditioning, against the list of all trees."""

import math
import re

import pytest
import torch
from torch.distributions import kl_divergence

from pyro_ext.distributions import ConditionalCladeDistribution, SubsplitBayesianNetwork
from pyro_ext.phylo import SubsplitSupport, all_trees, random_trees
from tests.phylo.brute_force import rooted_subsplits, rootings


def build(kind, trees, *batch_shape, holes=False):
    support = SubsplitSupport.from_trees(trees, sisters=kind != "clade")
    logits = torch.randn(*batch_shape, support.num_parameters, dtype=torch.float64)
    if holes:
        degree = support.graph.start.diff()[support.graph.segment]
        first = torch.arange(len(degree)) == support.graph.start[support.graph.segment]
        logits[..., (degree > 2) & ~first & (torch.rand(len(degree)) < 0.3)] = -math.inf
    if kind == "clade":
        return ConditionalCladeDistribution(support, logits)
    return SubsplitBayesianNetwork(support, logits, rooted=kind == "rooted")


FAMILIES = {
    "network of rooted trees": lambda: build("rooted", all_trees(5, rooted=True)[::3], 2),
    "network of unrooted trees, rooted": lambda: build("rooted", all_trees(6)[::9], 2),
    "with holes": lambda: build("rooted", all_trees(5), holes=True),
    "clades, rooted": lambda: build("clade", all_trees(5, rooted=True)[::3], 2),
    "clades, unrooted": lambda: build("clade", all_trees(6)[::4], 2, 1),
}
UNROOTED = {
    "network": lambda: build("unrooted", all_trees(6)[::9], 2),
    "single": lambda: build("unrooted", random_trees(6, 2)),
}


def clades_of(tree, rooted):
    """All clades of a rooted tree; the sides without taxon 0 of the splits of an unrooted one."""
    subsplits = rooted_subsplits(tree) if rooted else [s for rooting in rootings(tree) for s in rooting]
    clades = {clade for _, clade, _ in subsplits}
    n = (len(tree) + 2) // 2
    return {c for c in clades if rooted or (0 not in c and len(c) < n - 1)}


@pytest.mark.parametrize("name", FAMILIES)
def test_entropy_and_mode(name):
    d = FAMILIES[name]()
    trees = d.enumerate_support(expand=False)
    assert d.num_trees() == len(trees)
    log_prob = d.log_prob(trees)
    expected = torch.special.entr(log_prob.exp()).sum(0)
    torch.testing.assert_close(d.entropy(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(d.log_prob(d.map_tree()), log_prob.amax(0), rtol=0, atol=1e-12)
    assert torch.equal(d.mode, d.map_tree())


@pytest.mark.parametrize("name", [*FAMILIES, *UNROOTED])
def test_clade_marginals(name):
    d = {**FAMILIES, **UNROOTED}[name]()
    values = d.enumerate_support(expand=False)
    probs = d.log_prob(values).exp()
    rooted = d.event_shape[0] % 2 == 1
    trees = values.reshape(len(values), -1)
    sets = [clades_of(tree, rooted) for tree in trees.tolist()]
    n = d.subsplits.num_taxa
    expected = {c for s in sets for c in s if len(c) < n}
    clades, log_prob = d.clade_marginals()
    result = [frozenset(row.nonzero().squeeze(-1).tolist()) for row in clades]
    assert len(set(result)) == len(result)
    assert set(result) == expected
    for i, clade in enumerate(result):
        has = torch.tensor([clade in s for s in sets], dtype=torch.float64)
        total = (probs * has.view(-1, *(1,) * (probs.dim() - 1))).sum(0)
        torch.testing.assert_close(log_prob[..., i].exp(), total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_divergence(name):
    p = FAMILIES[name]()
    logits = torch.randn(p.logits.shape, dtype=torch.float64)
    q = type(p)(p.subsplits, logits, **({"rooted": True} if isinstance(p, SubsplitBayesianNetwork) else {}))
    trees = p.enumerate_support(expand=False)
    log_p, log_q = p.log_prob(trees), q.log_prob(trees)
    expected = torch.where(log_p > -math.inf, log_p.exp() * (log_p - log_q), 0).sum(0)
    torch.testing.assert_close(kl_divergence(p, q), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(kl_divergence(p, p), torch.zeros_like(expected))
    if name == "with holes":
        assert kl_divergence(q, p) == math.inf


def test_gradients_of_programs():
    support = SubsplitSupport.from_trees(all_trees(5))
    other = SubsplitBayesianNetwork(support, torch.randn(support.num_parameters, dtype=torch.float64), rooted=True)
    logits = torch.randn(support.num_parameters, dtype=torch.float64, requires_grad=True)

    def programs(logits):
        q = SubsplitBayesianNetwork(support, logits, rooted=True)
        return q.entropy(), kl_divergence(q, other), q.clade_marginals().log_prob

    assert torch.autograd.gradcheck(programs, logits, fast_mode=True)


def has_split(tree, clade, rooted):
    n = (len(tree) + 2) // 2
    if rooted:
        return clade in clades_of(tree, True)
    return (clade if 0 not in clade else frozenset(range(n)) - clade) in clades_of(tree, False)


@pytest.mark.parametrize("clade", [{1, 2}, {0, 3}, {0, 1, 4}, {2, 3, 4}])
@pytest.mark.parametrize("name", ["network of unrooted trees, rooted", "clades, rooted", "clades, unrooted", "network"])
def test_given_a_clade(name, clade):
    d = {**FAMILIES, **UNROOTED}[name]()
    values = d.enumerate_support(expand=False)
    rooted = d.event_shape[0] % 2 == 1
    has = torch.tensor([has_split(t, frozenset(clade), rooted) for t in values.reshape(len(values), -1).tolist()])
    check_conditioned(d, lambda: d.given_clade(clade), has)


def has_subsplit(tree, first, second, rooted):
    if rooted:
        return any(children == {first, second} for _, _, children in rooted_subsplits(tree))
    return any(children == {first, second} for rooting in rootings(tree) for _, _, children in rooting)


@pytest.mark.parametrize(("first", "second"), [({1}, {2}), ({0}, {3}), ({0, 1}, {4}), ({2, 3}, {1, 4})])
@pytest.mark.parametrize("name", ["network of unrooted trees, rooted", "clades, rooted", "clades, unrooted", "network"])
def test_given_a_subsplit(name, first, second):
    d = {**FAMILIES, **UNROOTED}[name]()
    values = d.enumerate_support(expand=False)
    rooted = d.event_shape[0] % 2 == 1
    parts = frozenset(first), frozenset(second)
    has = torch.tensor([has_subsplit(t, *parts, rooted) for t in values.reshape(len(values), -1).tolist()])
    check_conditioned(d, lambda: d.given_subsplit(first, second), has)


def check_conditioned(d, condition, has):
    if not has.any():
        with pytest.raises(ValueError, match="has probability zero"):
            condition()
        return
    given = condition()
    values = d.enumerate_support(expand=False)
    probs = d.log_prob(values).exp()
    expected = probs * has.view(-1, *(1,) * (probs.dim() - 1))
    torch.testing.assert_close(given.log_prob(values).exp(), expected / expected.sum(0), rtol=0, atol=1e-12)
    assert given.batch_shape == d.batch_shape
    assert (given.log_prob(given.sample((20,))) > -math.inf).all()


def test_clades_that_all_trees_have():
    d = FAMILIES["clades, unrooted"]()
    for clade in ([0], [5], range(6), [0, 1, 2, 3, 5]):
        assert d.given_clade(clade) is d
    q = build("rooted", all_trees(4, rooted=True))
    assert q.given_clade([1, 2, 3]) is not q


Q = build("unrooted", random_trees(6, 2, generator=torch.Generator().manual_seed(0)))
BAD = {
    "unknown taxon": (lambda: Q.given_clade(["x"]), "clade holds ['x']"),
    "overlap": (lambda: Q.given_subsplit([0, 1], [1, 2]), "have ('1',) in common"),
    "no third part": (lambda: Q.given_subsplit([0, 1, 2], [3, 4, 5]), "use given_clade"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_divergence_of_different_supports():
    p, q = (build("rooted", random_trees(6, 2)) for _ in range(2))
    with pytest.raises(NotImplementedError, match="build both on their union"):
        kl_divergence(p, q)
    with pytest.raises(NotImplementedError, match="rooted=True"):
        kl_divergence(Q, Q)
