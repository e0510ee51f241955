"""Held-out log-likelihoods: folds one by one, in blocks and in turn."""

import math

import pytest
import torch

from pyro_ext.distributions import SubsplitBayesianNetwork, held_out_log_likelihood
from pyro_ext.phylo import SubsplitSupport, all_trees, random_trees


@pytest.mark.parametrize("options", [{"method": "simple_average"}, {"method": "em", "alpha": 0.1, "max_iterations": 5}])
@pytest.mark.parametrize("weighted", [False, True])
def test_folds_one_by_one(options, weighted):
    trees = all_trees(5)[torch.tensor([0, 0, 1, 3, 3, 3, 7, 1, 0, 9, 9])]
    weights = torch.arange(1.0, 12.0).double() if weighted else torch.ones(11).double()
    place = torch.arange(11)
    fold = place % 4 if weighted else place * 4 // 11
    support = SubsplitSupport.from_trees(trees)
    total = 0.0
    for number in range(4):
        own = fold == number
        d = SubsplitBayesianNetwork.from_trees(trees[~own], weights[~own], support=support, **options)
        log_prob = d.log_prob(trees[own]).clamp_min(math.log(1e-4))
        total += float((weights[own] * log_prob).sum())
    found = held_out_log_likelihood(trees, weights, folds=4, floor=1e-4, **options)
    assert found == pytest.approx(total / float(weights.sum()), abs=1e-10)


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
