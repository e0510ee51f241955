"""Constraints return the batch shape and know their members."""

import pytest
import torch

from pyro_ext.distributions import constraints


@pytest.mark.parametrize(
    ("value", "ordered", "unordered"),
    [
        ([0, 2, 5], True, True),
        ([5, 0, 2], True, False),
        ([0, 2, 2], False, False),
        ([-1, 0, 2], False, False),
        ([0, 2, 6], False, False),
        ([0.0, 2.0, 5.0], True, True),
        ([0.0, 2.5, 5.0], False, False),
        ([0, 2], False, False),
    ],
)
def test_membership(value, ordered, unordered):
    value = torch.tensor(value)
    assert bool(constraints.ordered_subset(3, 6).check(value)) is ordered
    assert bool(constraints.unordered_subset(3, 6).check(value)) is unordered


@pytest.mark.parametrize("make", [constraints.ordered_subset, constraints.unordered_subset])
def test_check_returns_the_batch_shape(make):
    assert make(2).check(torch.zeros(4, 5, 2, dtype=torch.int64)).shape == (4, 5)
    assert make(2).check(torch.zeros(4, 5, 3)).tolist() == [[False] * 5] * 4
    assert make(1).check(torch.tensor([[0], [10**9]])).tolist() == [True, True]
    assert make(2, 3).event_dim == 1
    assert make(2, 3).is_discrete
    assert repr(make(2, 3)).endswith("(k=2, num_categories=3)")
