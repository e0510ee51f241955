"""The laws of trees keep the contract of all distributions."""

import math

import pytest
import torch

from pyro_ext.distributions import ConditionalCladeDistribution, SubsplitBayesianNetwork, TreeFrequency
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


LAWS = {
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
    size, batch_shape, build = LAWS[name]
    # no tree is so rare that its count is far from normal
    logits = (0.5 * torch.randn(*batch_shape, size, dtype=dtype)).to(device).requires_grad_()
    check_distribution(build(logits), parameters=[logits], num_samples=4000)


@pytest.mark.parametrize("name", LAWS)
def test_contract(name, dtype, device):
    check(name, dtype, device)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAWS)
def test_contract_on_cuda(name, dtype):
    check(name, dtype, torch.device("cuda"))


@pytest.mark.parametrize("name", LAWS)
def test_splits_that_are_never_made(name):
    size, batch_shape, build = LAWS[name]
    logits = torch.randn(*batch_shape, size, dtype=torch.float64)
    logits[..., 1] = -math.inf  # not the only rootsplit
    d = build(logits.requires_grad_())
    values = d.enumerate_support(expand=False)
    log_prob = d.log_prob(values)
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(batch_shape, dtype=torch.float64))
    (grad,) = torch.autograd.grad(log_prob[log_prob > -math.inf].sum(), logits)
    assert torch.isfinite(grad).all()
    assert (d.log_prob(d.sample((500,))) > -math.inf).all()
