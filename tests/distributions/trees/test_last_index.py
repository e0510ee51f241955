"""Trees looked up once serve again, until they change."""

from __future__ import annotations

import torch

from pyro_ext.distributions import SubsplitBayesianNetwork
from pyro_ext.phylo import SubsplitSupport, all_trees


def _law():
    support = SubsplitSupport.from_trees(all_trees(5))
    return SubsplitBayesianNetwork(support, torch.linspace(-1, 1, support.num_parameters))


def test_the_last_trees_are_remembered_by_expanded_copies_too():
    law, trees = _law(), all_trees(5)
    assert law.expand([len(trees)]).index(trees) is law.index(trees)
    assert law.index(trees.clone()) is not law.index(trees)


def test_trees_changed_in_place_are_looked_up_again():
    law, trees = _law(), all_trees(5).clone()
    before = law.log_prob(trees).clone()
    trees.copy_(trees.flip(0))
    torch.testing.assert_close(law.index(trees).position, law.subsplits.index(trees).position)
    torch.testing.assert_close(law.log_prob(trees), before.flip(0))
