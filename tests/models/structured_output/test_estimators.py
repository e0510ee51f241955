"""Gradients of all estimators on tiny networks against those of the exact bound."""

import math

import pyro
import pytest
import torch
from torch.distributions import Bernoulli
from torch.nn.functional import logsigmoid, softplus

from pyro_ext.inference import (
    RelaxReparam,
    TraceLeaveOneOut_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
    TraceVIMCO_ELBO,
    relax,
)
from pyro_ext.models.structured_output import LearnedBaselineELBO
from tests.models.structured_output.tiny import exact_bound, networks

COPIES, REPEATS = 1500, 24


def learned_baseline(model, task, steps):
    units = model.units if task == "density" else model.hidden.units
    sites = ("h1", "h2")
    sizes = dict.fromkeys(sites, units.num_logits)
    elbo = LearnedBaselineELBO(model.parents, sizes, torch.full((4,), 0.5), shared=task != "density", hidden=5).double()
    elbo.moments.num_steps += steps
    elbo.moments.mean += 0.7 * steps
    elbo.moments.square += 5.0 * steps
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


@pytest.mark.parametrize("objective", ["relaxed_density", "relaxed_categorical"])
def test_relaxed_bounds_of_two_samples_are_those_of_a_grid(objective):
    """One unit: values and gradients against the sum over a grid of pairs of logistic variables."""
    model, guide = networks("density", layers=1, units=1, size=COPIES)
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    parameters = [*model.parameters(), *guide.parameters()]
    of_model, of_guide = 0.5, 2 / 3
    a, b = guide.above[0](x - guide.centred[0].mean).squeeze(), model.prior_logits.squeeze()
    u = (torch.arange(600, dtype=torch.float64) + 0.5) / 600
    y = (a + u.logit()) / of_guide
    weight = Bernoulli(logits=model.below[0](2 * y.sigmoid()[:, None] - 1)).log_prob(x).sum(-1)
    if objective == "relaxed_density":
        at = ((of_model, b), (of_guide, a))
        p, q = (math.log(c) + r - c * y - 2 * softplus(r - c * y) for c, r in at)
        weight = weight + p - q
    else:
        ratios = [logsigmoid(sign * b) - logsigmoid(sign * a) for sign in (1, -1)]
        weight = weight + y.sigmoid() * ratios[0] + (-y).sigmoid() * ratios[1]
    bound = torch.logaddexp(weight[:, None], weight).mean() - math.log(2)
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-bound, parameters)])
    elbo = TraceVIMCO_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    programs = relax(model, RelaxReparam(of_model, objective)), relax(guide, RelaxReparam(of_guide, objective))
    pyro.set_rng_seed(1)
    values, drawn = [], []
    for _ in range(REPEATS):
        loss = elbo.differentiable_loss(*programs, x.expand(COPIES, -1)) / COPIES
        values.append(loss.item())
        drawn.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    values, drawn = torch.tensor(values, dtype=torch.float64), torch.stack(drawn)
    assert (values.mean() + bound).abs() < 5 * values.std() / REPEATS**0.5
    # About 10 components with 23 degrees of freedom; the floor is for components without noise, and the grid.
    assert ((drawn.mean(0) - exact).abs() < 6 * drawn.std(0) / REPEATS**0.5 + 1e-3).all()
    assert (drawn.std(0) / REPEATS**0.5).max() < 0.1 * exact.abs().max()


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
    assert int(elbo.moments.num_steps) == 60


def test_losses_change_nothing():
    model, guide = networks("density")
    elbo = learned_baseline(model, "density", 1)
    before = {name: value.clone() for name, value in elbo.state_dict().items()}
    elbo.loss(model, guide, torch.zeros(1, 4, dtype=torch.float64))
    elbo.after_step()
    assert all(torch.equal(value, before[name]) for name, value in elbo.state_dict().items())
    assert {"moments.mean", "moments.square", "moments.num_steps", "networks.0.0.weight"} <= before.keys()


def test_levels_are_averaged_over_processes(monkeypatch):
    model, guide = networks("density", size=3)
    alone, together = (learned_baseline(model, "density", 0) for _ in range(2))
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64).expand(3, -1)
    for elbo in (alone, together):
        if elbo is together:
            monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
            monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
            monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.add_(3.0))  # the other one's
        pyro.set_rng_seed(0)
        elbo.loss_and_grads(model, guide, x)
    for name in ("mean", "square"):
        torch.testing.assert_close(getattr(together.moments, name), (getattr(alone.moments, name) + 3) / 2)
