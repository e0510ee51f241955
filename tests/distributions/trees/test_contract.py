"""The distributions of trees keep the contract of all distributions."""

import math

import pytest
import torch

from pyro_ext.distributions import (
    ConditionalCladeDistribution,
    SubsplitBayesianNetwork,
    TreeFrequency,
    UniformTopology,
)
from pyro_ext.distributions.testing import check_distribution
from pyro_ext.phylo import SubsplitSupport, all_trees

UNROOTED, ROOTED = all_trees(5), all_trees(4, rooted=True)


def network(trees, batch_shape=(), **options):
    support = SubsplitSupport.from_trees(trees)

    def build(logits):
        return SubsplitBayesianNetwork(support.to(logits.device), logits, **options)

    return support.num_parameters, batch_shape, build


def clades(trees, batch_shape=()):
    support = SubsplitSupport.from_trees(trees, sisters=False)

    def build(logits):
        return ConditionalCladeDistribution(support.to(logits.device), logits)

    return support.num_parameters, batch_shape, build


FAMILIES = {
    "network, unrooted": network(UNROOTED),
    "network, unrooted, not all trees": network(UNROOTED[::2]),
    "network, unrooted, batch": network(UNROOTED, (2, 3)),
    "network, rooted": network(ROOTED, (2,)),
    "network, rooted, of unrooted trees": network(all_trees(4), rooted=True),
    "network, unrooted, of rooted trees": network(ROOTED, rooted=False),
    "clades, unrooted": clades(UNROOTED, (2,)),
    "clades, rooted": clades(ROOTED),
    "frequencies": (15, (2,), lambda logits: TreeFrequency(UNROOTED.to(logits.device), logits)),
}


def check(name, dtype, device):
    size, batch_shape, build = FAMILIES[name]
    # no tree is so rare that its count is far from normal
    logits = (0.5 * torch.randn(*batch_shape, size, dtype=dtype)).to(device).requires_grad_()
    check_distribution(build(logits), parameters=[logits], num_samples=4000)


@pytest.mark.parametrize("name", FAMILIES)
def test_contract(name, dtype, device):
    check(name, dtype, device)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_contract_on_cuda(name, dtype):
    check(name, dtype, torch.device("cuda"))


@pytest.mark.parametrize("name", FAMILIES)
def test_splits_that_are_never_made(name):
    size, batch_shape, build = FAMILIES[name]
    logits = torch.randn(*batch_shape, size, dtype=torch.float64)
    logits[..., 1] = -math.inf  # not the only rootsplit
    d = build(logits.requires_grad_())
    values = d.enumerate_support(expand=False)
    log_prob = d.log_prob(values)
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(batch_shape, dtype=torch.float64))
    (grad,) = torch.autograd.grad(log_prob[log_prob > -math.inf].sum(), logits)
    assert torch.isfinite(grad).all()
    assert (d.log_prob(d.sample((500,))) > -math.inf).all()


@pytest.mark.parametrize("rooted", [False, True])
def test_uniform_topologies(rooted, dtype):
    like = torch.zeros((), dtype=dtype)
    check_distribution(UniformTopology(5 - rooted, rooted, like).expand((2,)), num_samples=4000)


def test_uniform_topologies_too_many_to_list():
    d = UniformTopology(30, like=torch.zeros(()))
    assert d.log_prob(d.sample((3,))).tolist() == pytest.approx([-math.log(math.prod(range(3, 56, 2)))] * 3)
    with pytest.raises(NotImplementedError, match="topologies of 30 taxa, too many to list"):
        d.enumerate_support()


@pytest.mark.parametrize("num_taxa", [2, 4.0, True])
def test_uniform_topologies_refuse(num_taxa):
    with pytest.raises(ValueError, match=f"num_taxa must be an integer of at least 3, got {num_taxa}"):
        UniformTopology(num_taxa)
