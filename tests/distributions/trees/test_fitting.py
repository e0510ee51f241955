"""Fitting networks: against a brute-force fit, published topologies, monotone likelihoods, bad input."""

import math
import os
import re

import numpy as np
import pytest
import torch

from pyro_ext.distributions import ConditionalCladeDistribution, SubsplitBayesianNetwork, TreeFrequency, tree_kl
from pyro_ext.distributions.trees.divergence import log_prob_in_parts
from pyro_ext.phylo import SubsplitSupport, TreeSet, all_trees, random_trees, read_trees
from tests.phylo.brute_force import BruteForceNetwork, rooted_subsplits

fit = SubsplitBayesianNetwork.fit


def em(trees, weights, iterations, alpha=0.0, **options):
    options = {"max_iterations": iterations, "min_iterations": iterations, "tolerance": 0.0, "alpha": alpha, **options}
    return fit(trees, weights, "em", **options)[0]


def check_against_brute_force(trees, weights):
    brute = BruteForceNetwork(trees.tolist(), weights)

    def compare(q, probs):
        np.testing.assert_allclose(q.log_prob(trees).exp(), probs, rtol=1e-12, atol=1e-12)

    compare(fit(trees, weights)[0], brute.probs())
    np.testing.assert_allclose(fit(trees, weights)[0].log_prob_rootings(trees).exp(), brute.rooting_probs(), atol=1e-12)
    compare(em(trees, weights, 1), brute.em(1))
    compare(em(trees, weights, 23), brute.em(22))
    brute.theta = brute._normalised(brute.simple_counts)
    compare(em(trees, weights, 100, 0.5, prior="empirical"), brute.em(100, 0.5))


@pytest.mark.parametrize(("n", "num"), [(4, 3), (6, 20), (9, 12)])
def test_against_brute_force(n, num):
    trees = random_trees(n, num).unique(dim=0)
    check_against_brute_force(trees, torch.rand(len(trees), dtype=torch.float64))


@pytest.mark.data
def test_published_topologies_against_brute_force():
    """100 trees of 27 taxa, 44 of them different."""
    path = os.path.join(os.environ["PYRO_EXT_DATA"], "phylo/reference/DS1.100_topologies.nwk")
    trees = read_trees(path, rooted=False).unique()
    assert len(trees) == 44
    check_against_brute_force(trees.parents, trees.weights)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3}, {"alpha": 0.3, "prior": "empirical"}])
def test_em_never_decreases(options):
    trees, weights = random_trees(8, 40), torch.rand(40, dtype=torch.float64)
    q, history = fit(trees, weights, "em", **options)
    assert history.converged
    assert re.fullmatch(r"FitHistory\(\d+ iterations, converged, log_likelihood=-\d\.\d{6}\)", repr(history))
    assert 52 <= history.num_iterations == len(history.log_likelihood)
    assert (history.objective.diff() > -1e-13).all()
    share = weights / weights.sum()
    last = (share * q.log_prob(trees)).sum()
    if not options:
        assert torch.equal(history.objective, history.log_likelihood)
        assert -1e-13 < last - history.log_likelihood[-1] < 1e-5
        assert last > (share * fit(trees, weights)[0].log_prob(trees)).sum()


def test_alpha_spreads_mass_over_observed_splits():
    trees = random_trees(7, 15)
    for prior in ("uniform", "empirical"):
        sharp, smooth, flat = (em(trees, None, 60, alpha, prior=prior) for alpha in (0.0, 1.0, 1e6))
        assert (smooth.logits > -math.inf).all()
        assert smooth.log_prob(trees).mean() < sharp.log_prob(trees).mean()
    simple = fit(trees)[0]
    torch.testing.assert_close(flat.log_prob(trees), simple.log_prob(trees), rtol=0, atol=1e-4)


def test_one_tree_is_certain():
    tree = random_trees(9, 1)
    for method in ("simple_average", "em"):
        q, history = fit(tree, None, method)
        torch.testing.assert_close(q.log_prob(tree), torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-14)
        assert history.num_iterations == (1 if method == "simple_average" else 52)


def test_rooted_maximum_likelihood():
    """Relative frequencies, which have the largest likelihood."""
    trees, weights = random_trees(6, 30, rooted=True), torch.rand(30, dtype=torch.float64)
    q, history = fit(trees, weights, "maximum_likelihood")
    assert torch.equal(fit(trees, weights)[0].logits, q.logits)
    logits = q.logits.clone().requires_grad_()
    share = weights / weights.sum()
    log_likelihood = (share * SubsplitBayesianNetwork(q.subsplits, logits).log_prob(trees)).sum()
    torch.testing.assert_close(history.log_likelihood[0], log_likelihood.detach())
    (grad,) = torch.autograd.grad(log_likelihood, logits)
    assert grad.abs().max() < 1e-15
    smooth, _ = fit(trees, weights, "maximum_likelihood", alpha=0.1)
    assert (share * smooth.log_prob(trees)).sum() < log_likelihood


def test_a_wider_support():
    trees = random_trees(6, 5)
    support = SubsplitSupport.from_trees(all_trees(6))
    narrow, _ = fit(trees)
    wide, _ = fit(trees, support=support)
    torch.testing.assert_close(wide.log_prob(trees), narrow.log_prob(trees))
    everything = wide.log_prob(all_trees(6))
    assert float(everything.exp().sum()) == pytest.approx(1, abs=1e-12)
    smooth, _ = fit(trees, None, "em", support=support, alpha=0.1)
    assert (smooth.logits[support.num_rootsplits :] > -math.inf).all()
    assert (smooth.log_prob(all_trees(6)) > -math.inf).sum() > (everything > -math.inf).sum()


def test_small_chunks_make_no_difference(monkeypatch):
    trees = random_trees(9, 40)
    whole, _ = fit(trees, None, "em", max_iterations=5)
    monkeypatch.setattr("pyro_ext.distributions.trees.fitting._CHUNK", 500)
    monkeypatch.setattr("pyro_ext.distributions.trees.divergence._CHUNK", 500)
    parts, _ = fit(trees, None, "em", max_iterations=5)
    torch.testing.assert_close(log_prob_in_parts(parts, trees), parts.log_prob(trees))
    torch.testing.assert_close(parts.logits, whole.logits)
    assert float(tree_kl(trees, parts)) == pytest.approx(float(tree_kl(trees, whole)), abs=1e-12)


def test_clade_frequencies():
    """The closed forms, counted by hand: parts at nodes over splits at edges."""
    trees, weights = random_trees(7, 12, rooted=True), torch.rand(12, dtype=torch.float64)
    share = (weights / weights.sum()).tolist()
    splits, clades = {}, {}
    for tree, w in zip(trees.tolist(), share, strict=True):
        for _, clade, children in rooted_subsplits(tree):
            splits[children] = splits.get(children, 0) + w
            clades[clade] = clades.get(clade, 0) + w
    q = ConditionalCladeDistribution.from_trees(trees, weights)
    for tree in trees.tolist():
        expected = math.prod(splits[children] / clades[clade] for _, clade, children in rooted_subsplits(tree))
        assert float(q.log_prob(torch.tensor(tree)).exp()) == pytest.approx(expected, rel=1e-12)


def test_the_taxon_an_unrooted_clade_distribution_hangs_from_does_not_matter():
    trees, weights = random_trees(8, 20), torch.rand(20, dtype=torch.float64)
    shuffled = TreeSet.from_parents([*"hcadbgfe"], trees)
    one, other = (ConditionalCladeDistribution.from_trees(x, weights) for x in (trees, shuffled))
    torch.testing.assert_close(one.log_prob(trees), other.log_prob(shuffled.parents), rtol=0, atol=1e-12)


def test_frequencies_of_trees():
    trees = random_trees(6, 5).unique(dim=0)
    q = TreeFrequency.from_trees(torch.cat([trees, trees[:1]]))
    expected = torch.full((len(trees),), 1 / (len(trees) + 1), dtype=torch.float64)
    expected[0] *= 2
    torch.testing.assert_close(q.log_prob(trees).exp(), expected)
    others = all_trees(6)
    others = others[~(others.unsqueeze(1) == trees).all(-1).any(-1)]
    assert (q.log_prob(others) == -math.inf).all()
    assert torch.equal(q.mode, trees[0])
    assert float(q.entropy()) == pytest.approx(float(torch.special.entr(expected).sum()))
    assert q.num_trees() == len(trees)


def test_divergence_from_a_sample():
    trees = all_trees(5)
    weights = torch.rand(15, dtype=torch.float64)
    share = weights / weights.sum()
    support = SubsplitSupport.from_trees(trees)
    q = SubsplitBayesianNetwork(support, torch.randn(2, support.num_parameters, dtype=torch.float64))
    expected = (share.log() @ share) - share @ q.log_prob(trees.unsqueeze(1))
    torch.testing.assert_close(tree_kl(trees, q, weights), expected)
    torch.testing.assert_close(tree_kl(trees.repeat(2, 1), q, weights.repeat(2)), expected)
    few = TreeFrequency.from_trees(trees[:5], weights[:5])
    assert tree_kl(trees, few, weights) == math.inf
    floor = 1e-9
    expected = (share * (share.log() - few.log_prob(trees).exp().clamp_min(floor).log())).sum()
    torch.testing.assert_close(tree_kl(trees, few, weights, floor=floor), expected)
    expected = (weights * (weights.log() - few.log_prob(trees).exp().clamp_min(floor).log())).sum()
    torch.testing.assert_close(tree_kl(trees, few, weights, floor=floor, normalize=False), expected)


TREES = all_trees(5)[[0, 6, 13]]
ROOTED = random_trees(5, 3, rooted=True, generator=torch.Generator().manual_seed(0))
BAD = {
    "method": (lambda: fit(TREES, method="ml"), "method must be one of"),
    "prior": (lambda: fit(TREES, method="em", prior="flat"), "prior must be one of"),
    "negative alpha": (lambda: fit(TREES, method="em", alpha=-1.0), "alpha must be a finite number of at least 0"),
    "alpha of an average": (lambda: fit(TREES, alpha=1.0), "means nothing to the simple average"),
    "no iteration": (
        lambda: fit(TREES, method="em", max_iterations=0),
        "max_iterations must be an integer",
    ),
    "a negative tolerance": (
        lambda: fit(TREES, method="em", tolerance=-1),
        "tolerance must be a finite number of at least 0",
    ),
    "EM of rooted trees": (
        lambda: fit(ROOTED, method="em"),
        "method='em' is not for rooted trees: use 'maximum_likelihood', or forget their roots",
    ),
    "maximum likelihood": (lambda: fit(TREES, method="maximum_likelihood"), "is not for unrooted trees: use 'em'"),
    "negative weight": (lambda: fit(TREES, [1, -1, 1]), "weights holds -1.0"),
    "no weight": (lambda: fit(TREES, [0, 0, 0]), "weights are all zero"),
    "no trees": (lambda: fit(TREES[:0]), "trees has shape (0, 8)"),
    "narrow support": (
        lambda: fit(TREES, support=SubsplitSupport.from_trees(TREES[:1])),
        "support lacks subsplits",
    ),
    "other support": (lambda: fit(TREES, support=SubsplitSupport.from_trees(ROOTED)), "fit to trees of the same kind"),
    "clades of no trees": (lambda: ConditionalCladeDistribution.from_trees(TREES[:0]), "trees has shape (0, 8)"),
    "clades with sisters": (lambda: ConditionalCladeDistribution(SubsplitSupport.from_trees(TREES)), "sisters=False"),
    "a tree twice": (lambda: TreeFrequency(TREES[[0, 0]]), "holds a topology twice"),
    "frequencies of other trees": (lambda: TreeFrequency(TREES, torch.zeros(4)), "one for each"),
    "frequencies of no trees": (lambda: TreeFrequency(TREES.flip(1)), "trees[0] = [6"),
    "trees of floats": (lambda: TreeFrequency(TREES.float()), "of torch.float32"),
    "no tree is ever drawn": (lambda: TreeFrequency(TREES, torch.full((3,), -math.inf)), "but not all of them"),
    "divergence of trees of other taxa": (
        lambda: tree_kl(TreeSet(tuple("abcde"), TREES), fit(TreeSet(tuple("vwxyz"), TREES))[0]),
        "trees and distribution differ in taxa, such as 'a', 'b', 'c'",
    ),
    "no floor": (lambda: tree_kl(TREES, TreeFrequency(TREES), floor=0.0), "floor must be a positive, finite number"),
    "divergence of other trees": (lambda: tree_kl(random_trees(6, 2), TreeFrequency(TREES)), "trees have 10 nodes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
