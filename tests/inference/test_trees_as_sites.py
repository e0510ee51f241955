"""Tree topologies as sites of a guide: gradients against enumeration, training towards a known target."""

import pyro
import pytest
import torch

from pyro_ext.distributions import SubsplitBayesianNetwork, UniformTopology
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceUnorderedSet_ELBO, TraceVIMCO_ELBO
from pyro_ext.phylo import SubsplitSupport, all_trees

F64 = torch.float64
FIVE, SEVEN = all_trees(5), all_trees(7)


def scores(trees, seed=1):
    """A log-density of trees: the same random numbers for the same trees."""
    generator = torch.Generator().manual_seed(seed)
    n = trees.shape[-1] // 2 + 1
    weights = torch.randn(trees.shape[-1], 2 * n, dtype=F64, generator=generator)
    return weights[torch.arange(trees.shape[-1]), trees.clamp_min(0)].sum(-1)


def exact_gradient(support, logits):
    network = SubsplitBayesianNetwork(support, logits)
    log_q = network.log_prob(FIVE)
    loss = (log_q.exp() * (log_q - scores(FIVE))).sum()
    return torch.autograd.grad(loss, logits)[0]


@pytest.fixture(scope="module")
def support():
    return SubsplitSupport.from_trees(FIVE)


def programs(support, logits):
    def model():
        tree = pyro.sample("tree", UniformTopology(5, like=logits))
        pyro.factor("score", scores(tree))

    def guide():
        pyro.sample("tree", SubsplitBayesianNetwork(support, logits))

    return model, guide


def test_a_set_of_all_trees_is_exact(support):
    logits = torch.randn(support.num_parameters, dtype=F64, requires_grad=True)
    loss = TraceUnorderedSet_ELBO(15, max_plate_nesting=0).differentiable_loss(*programs(support, logits))
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], exact_gradient(support, logits))


@pytest.mark.parametrize("elbo", [TraceUnorderedSet_ELBO, TraceLeaveOneOut_ELBO])
def test_gradients_are_unbiased(support, elbo):
    """1,500 networks in a plate, |z| < 5 for each of 100 parameters: false alarm 6e-5 in all."""
    one = 0.7 * torch.randn(support.num_parameters, dtype=F64)
    expected = exact_gradient(support, one.clone().requires_grad_())
    logits = one.expand(1_500, -1).clone().requires_grad_()

    def model():
        with pyro.plate("copies", 1_500, dim=-1):
            tree = pyro.sample("tree", UniformTopology(5, like=logits))
            pyro.factor("score", scores(tree))

    def guide():
        with pyro.plate("copies", 1_500, dim=-1):
            pyro.sample("tree", SubsplitBayesianNetwork(support, logits))

    elbo(4, max_plate_nesting=1).differentiable_loss(model, guide).backward()
    error = logits.grad.std(0) / 1_500**0.5
    z = (logits.grad.mean(0) - expected) / error.clamp_min(1e-12)
    assert float(z.abs().max()) < 5


@pytest.mark.parametrize(
    ("elbo", "left"),
    [(TraceUnorderedSet_ELBO, 0.05), (TraceLeaveOneOut_ELBO, 0.05), (TraceVIMCO_ELBO, 0.6)],
)
def test_networks_in_a_plate_learn_targets_of_their_own(support, elbo, left):
    """Three sets of logits, three targets: of each divergence a twentieth is left; VIMCO minimises another one."""
    target = SubsplitBayesianNetwork(support, 2 * torch.randn(3, support.num_parameters, dtype=F64))
    logits = torch.zeros(3, support.num_parameters, dtype=F64, requires_grad=True)

    def model():
        with pyro.plate("data", 3, dim=-1):
            tree = pyro.sample("tree", UniformTopology(5, like=logits))
            pyro.factor("target", target.log_prob(tree))

    def guide():
        with pyro.plate("data", 3, dim=-1):
            pyro.sample("tree", SubsplitBayesianNetwork(support, logits))

    def divergence():
        values = FIVE.unsqueeze(1)
        log_q = SubsplitBayesianNetwork(support, logits.detach()).log_prob(values)
        return (log_q.exp() * (log_q - target.log_prob(values))).sum(0)

    start, estimator = divergence(), elbo(4, max_plate_nesting=1)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(120):
        optimiser.zero_grad()
        estimator.loss_and_grads(model, guide)
        optimiser.step()
    assert (divergence() < left * start).all()


@pytest.mark.parametrize(
    ("elbo", "bound"),
    [
        (TraceUnorderedSet_ELBO(8, max_plate_nesting=0), 0.8),
        (TraceLeaveOneOut_ELBO(8, max_plate_nesting=0), 0.8),
        (TraceVIMCO_ELBO(8, max_plate_nesting=0, vectorize_particles=True), 2.5),
    ],
    ids=["unordered_set", "leave_one_out", "vimco"],
)
def test_training_towards_a_target_over_945_trees(elbo, bound):
    """The divergence from the target, 6.4 nats at the start, falls to a few tenths; VIMCO minimises another one."""
    pyro.set_rng_seed(1)
    support = SubsplitSupport.from_trees(SEVEN)
    target = SubsplitBayesianNetwork(support, 4 * torch.randn(support.num_parameters, dtype=F64))
    logits = torch.zeros(support.num_parameters, dtype=F64, requires_grad=True)

    def model():
        tree = pyro.sample("tree", UniformTopology(7, like=logits, validate_args=False))
        pyro.factor("target", target.log_prob(tree))

    def guide():
        pyro.sample("tree", SubsplitBayesianNetwork(support, logits, validate_args=False))

    def divergence():
        log_q = SubsplitBayesianNetwork(support, logits.detach()).log_prob(SEVEN)
        return float((log_q.exp() * (log_q - target.log_prob(SEVEN))).sum())

    start = divergence()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        elbo.loss_and_grads(model, guide)
        optimiser.step()
    assert start > 6
    assert divergence() < bound
