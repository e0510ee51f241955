"""The compiled kernel of expected counts beside autograd."""

import importlib.util
import math

import pytest
import torch

from pyro_ext.ops.kernels import kernels
from pyro_ext.ops.subsplits.rootings import expected_counts
from pyro_ext.phylo import SubsplitSupport
from pyro_ext.phylo.random_trees import random_trees

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


@pytest.mark.parametrize("impossible", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize(("num_taxa", "number", "threads"), [(3, 4, 1), (4, 10, 1), (9, 200, 2)])
def test_counts_are_those_of_autograd(num_taxa, number, threads, uniform, impossible, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    base = random_trees(num_taxa, 5)
    trees = base[torch.randint(len(base), (number,))]
    support = SubsplitSupport.from_trees(base[:4])  # subsplits of some trees are missing
    index = support.index(trees)
    log_theta = torch.randn(support.num_parameters, dtype=torch.float64) - 2
    log_theta = log_theta.masked_fill(torch.rand(len(log_theta)) < impossible, -math.inf)
    weights = torch.rand(number, dtype=torch.float64).masked_fill(torch.arange(number) % 3 == 0, 0.0)
    with kernels("torch"):
        counts, total = expected_counts(log_theta, index, weights, uniform)
    ours, own_total = expected_counts(log_theta, index, weights, uniform)
    torch.testing.assert_close(ours, counts, atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(own_total, total, atol=1e-12, rtol=1e-12)
