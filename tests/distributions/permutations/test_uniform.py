import math

import pytest
import torch

from pyro_ext.distributions import UniformPermutation


def test_draws_are_equally_frequent():
    d = UniformPermutation(torch.zeros(3, 3))
    agreement = d.sample((6000,)).flatten(1) @ d.enumerate_support().flatten(1).T  # of 3 rows
    counts = (agreement == 3).sum(0)
    # standard deviation of a count 29: 5 of them fail falsely less than once in 100,000
    assert (counts - 1000).abs().max() < 5 * 29


def test_large_sizes():
    d = UniformPermutation(torch.zeros(30, 30))
    assert d.log_prob(torch.eye(30)) == pytest.approx(-math.lgamma(31))
    assert d.support.check(d.sample((4,))).all()


def test_like_must_be_square():
    with pytest.raises(ValueError, match=r"like must have shape batch_shape \+ \(N, N\)"):
        UniformPermutation(torch.zeros(2, 3))
