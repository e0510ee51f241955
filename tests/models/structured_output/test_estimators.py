"""Gradients of all estimators on tiny networks against those of the exact bound."""

import pyro
import pytest
import torch

from pyro_ext.inference import (
    TraceLeaveOneOut_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
    TraceVIMCO_ELBO,
)
from pyro_ext.models.structured_output import LearnedBaselineELBO
from tests.models.structured_output.tiny import exact_bound, networks

COPIES, REPEATS = 1500, 24


def learned_baseline(model, task, steps):
    units = model.units if task == "density" else model.hidden.units
    sites = ("h1", "h2")
    sizes = dict.fromkeys(sites, units.num_logits)
    elbo = LearnedBaselineELBO(model.parents, sizes, torch.full((4,), 0.5), shared=task != "density", hidden=5).double()
    elbo.num_steps += steps
    elbo.mean += 0.7 * steps
    elbo.square += 5.0 * steps
    return elbo


ESTIMATORS = {
    "vimco": lambda model, task: TraceVIMCO_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    "leave one out": lambda model, task: TraceLeaveOneOut_ELBO(num_samples=2, max_plate_nesting=1),
    "unordered set": lambda model, task: TraceUnorderedSet_ELBO(num_samples=2, max_plate_nesting=1),
    "sum and sample": lambda model, task: TraceSumAndSample_ELBO(num_samples=2, max_plate_nesting=1),
    "learned baselines, first step": lambda model, task: learned_baseline(model, task, 0),
    "learned baselines": lambda model, task: learned_baseline(model, task, 1),
}


@pytest.mark.parametrize("task", ["density", "lower_half"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_are_unbiased(name, task):
    model, guide = networks(task, size=COPIES)
    parameters = list(dict.fromkeys([*model.parameters(), *guide.parameters()]))
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    bound = exact_bound(model, guide, x, 2 if name == "vimco" else 1).sum()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-bound, parameters)])
    elbo = ESTIMATORS[name](model, task)
    pyro.set_rng_seed(1)
    drawn = []
    for _ in range(REPEATS):
        loss = elbo.differentiable_loss(model, guide, x.expand(COPIES, -1)) / COPIES
        drawn.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    drawn = torch.stack(drawn)
    z = (drawn.mean(0) - exact) / (drawn.std(0) / REPEATS**0.5 + 1e-12)
    # About 30 components with 23 degrees of freedom: a false alarm in one of 3,000 seeds.
    assert z.abs().max() < 6
    assert (drawn.std(0) / REPEATS**0.5).max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("task", ["density", "lower_half"])
def test_whole_sets_are_exact(task):
    model, guide = networks(task)
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    elbo = TraceUnorderedSet_ELBO(num_samples=4, max_plate_nesting=1)
    loss = elbo.differentiable_loss(model, guide, x)
    exact = -exact_bound(model, guide, x).sum()
    torch.testing.assert_close(loss, exact)
    parameters = list(dict.fromkeys([*model.parameters(), *guide.parameters()]))
    for one, other in zip(*(torch.autograd.grad(each, parameters) for each in (loss, exact)), strict=True):
        torch.testing.assert_close(one, other)


def test_baselines_lower_the_variance():
    """On data of two kinds, the baselines learn which kind has the larger cost."""
    model, guide = networks("density", size=400)
    with torch.no_grad():
        model.below[0][-1].bias.copy_(torch.tensor([4.0, -4.0, 4.0, 4.0]))
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64).repeat(200, 1)
    elbo = learned_baseline(model, "density", 0)
    optimizer = torch.optim.Adam(elbo.parameters(), 0.03)
    pyro.set_rng_seed(2)

    def score_gradient():
        loss = elbo.differentiable_loss(model, guide, x) / len(x)
        return torch.autograd.grad(loss, [*guide.parameters()])[0]

    before = torch.stack([score_gradient() for _ in range(40)]).var(0).sum()
    for _ in range(60):
        optimizer.zero_grad()
        elbo.loss_and_grads(model, guide, x)
        optimizer.step()
    after = torch.stack([score_gradient() for _ in range(40)]).var(0).sum()
    assert after < 0.5 * before
    assert int(elbo.num_steps) == 60


def test_losses_change_nothing():
    model, guide = networks("density")
    elbo = learned_baseline(model, "density", 1)
    before = {name: value.clone() for name, value in elbo.state_dict().items()}
    elbo.loss(model, guide, torch.zeros(1, 4, dtype=torch.float64))
    elbo.after_step()
    assert all(torch.equal(value, before[name]) for name, value in elbo.state_dict().items())
    assert {"mean", "square", "num_steps", "networks.0.0.weight"} <= before.keys()
