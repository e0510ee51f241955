"""Frequencies of permutations and distances between their distributions."""

import math

import pytest
import torch

from pyro_ext.distributions import PermutationMatching
from pyro_ext.models.point_matching.evaluation import frequencies, hellinger_distance, permutation_rank


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_ranks_are_places_in_the_support(n):
    every = PermutationMatching(torch.zeros(n, n)).enumerate_support()
    assert permutation_rank(every).tolist() == list(range(math.factorial(n)))


def test_frequencies():
    p, q = torch.eye(2), torch.eye(2).flip(0)
    drawn = torch.stack([torch.stack([p, p, q, p]), torch.stack([q, q, q, q])], 1)
    assert frequencies(drawn).tolist() == [[0.75, 0.25], [0.0, 1.0]]


def test_hellinger_distance():
    p, q = torch.rand(2, 5, 7, dtype=torch.float64).softmax(-1)
    for a, b, distance in zip(p.tolist(), q.tolist(), hellinger_distance(p, q).tolist(), strict=True):
        assert distance == pytest.approx(math.sqrt(1 - sum(map(math.sqrt, map(math.prod, zip(a, b, strict=True))))))
    assert hellinger_distance(p, p).abs().max() == 0
