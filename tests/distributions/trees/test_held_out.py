"""Held-out log-likelihoods: folds one by one, in blocks and in turn."""

import math

import pytest
import torch

from pyro_ext.distributions import (
    SubsplitBayesianNetwork,
    TreeFrequency,
    UniformTopology,
    held_out_log_likelihood,
    tree_dispersion,
)
from pyro_ext.distributions.trees.held_out import _dealt
from pyro_ext.phylo import SubsplitSupport, all_trees, random_trees


@pytest.mark.parametrize("options", [{"method": "simple_average"}, {"method": "em", "alpha": 0.1, "max_iterations": 5}])
@pytest.mark.parametrize("weighted", [False, True])
def test_folds_one_by_one(options, weighted):
    trees = all_trees(5)[torch.tensor([0, 0, 1, 3, 3, 3, 7, 1, 0, 9, 9])]
    weights = torch.arange(1.0, 12.0).double() / 100 if weighted else torch.ones(11).double()
    draws = trees.repeat_interleave((100 * weights).round().long(), 0) if weighted else trees
    place = torch.arange(len(draws))
    fold = place % 4 if weighted else place * 4 // 11
    support = SubsplitSupport.from_trees(trees)
    total = 0.0
    for number in range(4):
        own = fold == number
        d = SubsplitBayesianNetwork.from_trees(draws[~own], support=support, **options)
        total += float(d.log_prob(draws[own]).clamp_min(math.log(1e-4)).sum()) / len(draws)
    total *= float(weights.sum())
    found = held_out_log_likelihood(trees, weights, folds=4, floor=1e-4, **options)
    assert found == pytest.approx(total / float(weights.sum()), abs=1e-10)


def test_weights_are_dealt_as_draws():
    """Frequent trees are in all folds, in equal parts but for one draw; the weights add up, whole numbers or not."""
    dealt = _dealt(torch.tensor([50.0, 30.0, 20.0, 1.0]).double(), 5)
    assert dealt.sum(0).tolist() == [50, 30, 20, 1]
    assert (dealt[:, :3] == torch.tensor([10.0, 6.0, 4.0])).all()
    assert dealt[:, 3].tolist() == [1, 0, 0, 0, 0]
    dealt = _dealt(torch.tensor([5.0, 3.0, 1.0]).double(), 5)
    assert dealt.tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 0]]
    assert len(_dealt(torch.tensor([2.0, 1.0]).double(), 5)) == 3
    weights = torch.tensor([0.413, 0.25, 0.2, 0.1, 0.037]).double()
    dealt = _dealt(weights, 3)
    torch.testing.assert_close(dealt.sum(0), weights)
    assert (dealt.amax(0) - dealt.amin(0) <= 0.037 * 2).all()
    assert (dealt >= 0).all()
    far = torch.tensor([1.0, 1e-15, 1e-15]).double()
    torch.testing.assert_close(_dealt(far, 4).sum(0), far)


def test_a_frequent_tree_is_seen_by_all_folds():
    """Ten of eleven draws are of one tree: networks fitted to the others know it, at almost no cost."""
    trees = all_trees(5)[:2]
    found = held_out_log_likelihood(trees, [10.0, 1.0], method="em", alpha=1e-3)
    assert -1 < found < math.log(10 / 11)


def test_more_folds_than_trees():
    trees = all_trees(4, rooted=True)[:3]
    found = held_out_log_likelihood(trees, folds=10, method="maximum_likelihood")
    assert found == pytest.approx(held_out_log_likelihood(trees, folds=3, method="maximum_likelihood"))


@pytest.mark.parametrize(
    ("trees", "options", "message"),
    [
        (random_trees(5, 1), {}, "trees holds 1 tree of positive weight"),
        (random_trees(5, 3), {"folds": 1}, "folds must be an integer of at least 2, got 1"),
        (random_trees(5, 3), {"floor": 0}, "floor must be a positive, finite number"),
        (random_trees(5, 3), {"method": "bayes"}, "method must be one of"),
    ],
    ids=["one tree", "one fold", "no floor", "no method"],
)
def test_bad_input(trees, options, message):
    with pytest.raises(ValueError, match=message):
        held_out_log_likelihood(trees, **options)


def test_dispersion_around_a_sample():
    """0 for the frequencies themselves, the known value for others, trees of probability 0 left out."""
    trees = all_trees(4)
    own = TreeFrequency.from_trees(trees, [0.5, 0.3, 0.2])
    assert float(tree_dispersion(trees, own, [0.5, 0.3, 0.2])) == pytest.approx(0, abs=1e-12)
    doubled = TreeFrequency.from_trees(trees[:2], [0.8, 0.2])
    expected = (0.5 * math.log(1.6) + 0.3 * math.log(1.5)) / 0.8
    assert float(tree_dispersion(trees, doubled, [0.5, 0.3, 0.2])) == pytest.approx(expected)
    assert float(tree_dispersion(trees.repeat(2, 1), doubled, [0.25, 0.15, 0.1] * 2)) == pytest.approx(expected)
    assert tree_dispersion(trees[2:], doubled).isnan()
    uniform = UniformTopology(4)
    assert float(tree_dispersion(trees, uniform)) == pytest.approx(0, abs=1e-6)
