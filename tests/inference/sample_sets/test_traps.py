"""The special cases in which an estimator of this family goes wrong silently."""

import gc
import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import nn

from pyro_ext.inference import (
    TraceLeaveOneOut_ELBO,
    TraceSampleSet_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
)
from pyro_ext.inference.sample_sets.draw import SetOptions, draw_sample_set
from tests.inference.feeding import gradients, max_z

SETS = [TraceUnorderedSet_ELBO, TraceSumAndSample_ELBO]


def problem(logits, loc=None):
    """A categorical site of the given guide logits under a normal likelihood."""
    k = logits.shape[-1]
    loc = torch.arange(k, dtype=logits.dtype) if loc is None else loc

    def model():
        z = pyro.sample("z", dist.Categorical(logits=torch.zeros(k, dtype=logits.dtype)))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=torch.tensor(1.5, dtype=logits.dtype))

    return model, lambda: pyro.sample("z", dist.Categorical(logits=logits))


def exact(model, guide, parameters):
    elbo = TraceEnum_ELBO(max_plate_nesting=0)
    loss = elbo.differentiable_loss(model, config_enumerate(guide))
    return loss, gradients(loss, parameters)


@pytest.mark.parametrize("elbo_type", SETS)
@pytest.mark.parametrize("k", range(1, 7))
def test_impossible_categories(elbo_type, k):
    """Two of four categories have probability zero: everything stays finite, and k >= 2 is exact."""
    logits = torch.tensor([0.0, -math.inf, 1.0, -math.inf], dtype=torch.float64).requires_grad_()
    model, guide = problem(logits)
    loss = elbo_type(k).differentiable_loss(model, guide)
    (gradient,) = gradients(loss, [logits])
    possible = torch.tensor([0, 2])
    assert loss.isfinite()
    assert gradient.isfinite().all()
    if k >= 2:
        reduced = logits.detach()[possible].requires_grad_()
        expected, (expected_gradient,) = exact(*problem(reduced, loc=possible.double()), [reduced])
        prior = math.log(4 / 2)  # the reduced model's prior is uniform over two values instead of four
        assert loss.item() == pytest.approx(expected.item() + prior, abs=1e-12)
        torch.testing.assert_close(gradient[possible], expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("elbo_type", SETS)
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_logits(elbo_type, scale, dtype):
    logits = (scale * torch.tensor([0.3, -1.0, 0.1, 0.2], dtype=dtype)).requires_grad_()
    model, guide = problem(logits)
    loss = elbo_type(4).differentiable_loss(model, guide)
    expected, expected_gradient = exact(model, guide, [logits])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, [logits]), expected_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("elbo_type", [*SETS, TraceLeaveOneOut_ELBO])
def test_constant_cost_gives_no_gradient(elbo_type):
    """Weights are held fixed, the baseline takes a constant away exactly, and -log q is no cost to follow."""
    logits = torch.tensor([0.3, -1.0, 0.1, 0.2], dtype=torch.float64).requires_grad_()

    def model():
        pyro.sample("z", dist.Categorical(logits=logits.detach()))
        pyro.sample("x", dist.Normal(torch.tensor(0.0), 1.0), obs=torch.tensor(1.5))

    for _ in range(20):
        loss = elbo_type(3).differentiable_loss(model, lambda: pyro.sample("z", dist.Categorical(logits=logits)))
        assert gradients(loss, [logits])[0].abs().max() <= 1e-15


def test_single_sample_is_reinforce():
    """With k = 1 the built-in baseline would bias the estimator, so there is none."""
    logits = torch.tensor([0.3, -1.0, 0.1], dtype=torch.float64).requires_grad_()
    model, guide = problem(logits)
    log_q = logits.detach().log_softmax(-1)
    cost = -dist.Normal(torch.arange(3.0), 1.0).log_prob(torch.tensor(1.5)).double() + math.log(3) + log_q
    reinforce = cost.unsqueeze(-1) * (torch.eye(3) - log_q.exp())  # a row for each value
    elbo = TraceUnorderedSet_ELBO(1, max_plate_nesting=0)
    seen = set()
    for _ in range(60):
        (gradient,) = gradients(elbo.differentiable_loss(model, guide), [logits])
        distance, value = (reinforce - gradient).abs().amax(-1).min(0)
        assert distance < 1e-6
        seen.add(value.item())
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("k", [2, 6, 9])
@pytest.mark.parametrize("elbo_type", SETS)
def test_joint_one_hot_and_nested_events(elbo_type, k):
    """``OneHotCategorical.to_event`` and two event dims give the sets of the flat categorical site."""
    logits = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 1, 3).requires_grad_()
    table = torch.arange(9, dtype=torch.float64).reshape(3, 3)

    def model():
        z = pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(2, 1, 3, dtype=torch.float64)).to_event(2))
        loc = torch.einsum("...i,...j,ij->...", z[..., 0, 0, :], z[..., 1, 0, :], table)
        pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.tensor(2.0, dtype=torch.float64))

    def guide():
        return pyro.sample("z", dist.OneHotCategorical(logits=logits).to_event(1).to_event(1))

    flat = logits.detach().clone().requires_grad_()

    def flat_model():
        z = pyro.sample("z", dist.Categorical(torch.ones(9, dtype=torch.float64)))
        pyro.sample("x", dist.Normal(table.flatten()[z], 1.0), obs=torch.tensor(2.0, dtype=torch.float64))

    def flat_guide():
        first, second = flat.log_softmax(-1).squeeze(1)
        pyro.sample("z", dist.Categorical(logits=(first.unsqueeze(-1) + second).flatten()))

    expected_loss, (expected,) = exact(flat_model, flat_guide, [flat])
    particles = 1 if k == 9 else 1_000
    elbo = elbo_type(k, max_plate_nesting=0, num_particles=particles, vectorize_particles=True)
    drawn = [elbo.differentiable_loss(model, guide) for _ in range(1 if k == 9 else 40)]
    samples = torch.stack([gradients(loss, [logits])[0] for loss in drawn])
    if k == 9:
        assert drawn[0].item() == pytest.approx(expected_loss.item(), abs=1e-12)
        torch.testing.assert_close(samples[0], expected, rtol=0, atol=1e-12)
    else:
        assert max_z(samples, expected) < 4.5


@pytest.mark.parametrize(
    "site",
    [
        dist.Bernoulli(logits=torch.tensor([0.3, -0.2])),
        dist.Categorical(logits=torch.tensor([[0.3, -0.2, 1.0]])),
        dist.OneHotCategorical(logits=torch.tensor([[0.3, -0.2, 1.0]])),
        dist.Binomial(3, torch.tensor([0.3, 0.6])),
        dist.OrderedLogistic(torch.tensor([0.5]), torch.tensor([-1.0, 1.0])),
        dist.Bernoulli(logits=torch.tensor([0.3, -0.2])).mask(torch.tensor([True, False])),
        dist.Bernoulli(logits=torch.zeros(2, 3)).to_event(1),
        dist.BetaBinomial(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]), 2),
    ],
    ids=lambda site: type(site).__name__,
)
@pytest.mark.parametrize("estimator", ["unordered_set", "sum_and_sample", "leave_one_out"])
def test_families_whose_support_is_finite(site, estimator):
    drawn = draw_sample_set(site, SetOptions(estimator, 2))
    assert drawn.values.shape == (2, *site.batch_shape, *site.event_shape)
    assert drawn.values.dtype == site.sample().dtype
    torch.testing.assert_close(drawn.log_weight.exp().sum(0), torch.ones(drawn.log_weight.shape[1:]))
    assert site.support.check(drawn.values).all()


def test_sets_hold_distinct_values():
    site = dist.Categorical(logits=torch.randn(500, 7))
    values = draw_sample_set(site, SetOptions("unordered_set", 5)).values.sort(0).values
    assert (values.diff(dim=0) != 0).all()


def test_equal_probabilities_are_summed_in_a_fixed_order():
    site = dist.Categorical(logits=torch.zeros(50, 8))
    values = draw_sample_set(site, SetOptions("sum_and_sample", 4, num_summed=3)).values
    assert values[:3].unique(dim=1).flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("elbo_type", [*SETS, TraceLeaveOneOut_ELBO])
def test_site_that_no_cost_depends_on(elbo_type):
    """An auxiliary guide site changes nothing, and its parameters get the gradient of its own entropy term only."""
    logits, aside = (torch.zeros(3, dtype=torch.float64).requires_grad_() for _ in range(2))
    model, guide = problem(logits)

    def wider():
        pyro.sample("aside", dist.Categorical(logits=aside), infer={"is_auxiliary": True})
        guide()

    loss = elbo_type(3).differentiable_loss(model, wider)
    assert all(g.isfinite().all() for g in gradients(loss, [logits, aside]))


def test_unreached_parameters_are_left_alone():
    """Nothing requires gradients at the site itself: the model still learns."""
    loc = torch.zeros(3, dtype=torch.float64).requires_grad_()
    model, guide = problem(torch.zeros(3, dtype=torch.float64), loc)
    loss = TraceUnorderedSet_ELBO(2).differentiable_loss(model, guide)
    assert gradients(loss, [loc])[0].abs().sum() > 0


def test_steps_leave_no_graph_behind():
    logits = torch.zeros(3, dtype=torch.float64).requires_grad_()
    model, guide = problem(logits)
    elbo = TraceUnorderedSet_ELBO(2, max_plate_nesting=0)
    alive = []
    for _ in range(6):
        elbo.loss_and_grads(model, guide)
        gc.collect()
        alive.append(sum(type(o) is torch.Tensor for o in gc.get_objects()))
    assert alive[-1] == alive[-2] == alive[-3]


def test_loss_is_unbiased_and_less_noisy():
    logits = torch.tensor([0.5, -1.0, 0.1, 0.4], dtype=torch.float64)
    model, guide = problem(logits)
    expected = TraceSampleSet_ELBO(estimator="exact").loss(model, guide)
    sets = TraceUnorderedSet_ELBO(2, max_plate_nesting=0)
    draws = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=0)
    ours = torch.tensor([sets.loss(model, guide) for _ in range(400)], dtype=torch.float64)
    theirs = torch.tensor([draws.loss(model, guide) for _ in range(400)], dtype=torch.float64)
    assert max_z(ours, torch.tensor(expected)) < 4.5
    assert ours.var() < theirs.var()


def test_module_parameters_without_pyro():
    """Plain modules train: gradients reach whatever requires them."""

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 3)

        def forward(self):
            return pyro.sample("z", dist.Categorical(logits=self.net(torch.ones(2))))

    guide = Guide()
    model, _ = problem(torch.zeros(3))
    TraceUnorderedSet_ELBO(2).loss_and_grads(model, guide)
    assert guide.net.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("k", [2, 4])
def test_analytic_kl_is_unbiased(k):
    """Closed forms at a set site and at a reparameterised one, in a subsampled and masked plate."""
    logits = torch.tensor([[0.3, -1.0, 0.1, 0.6], [0.0, 1.0, -0.5, 0.2]], dtype=torch.float64).requires_grad_()
    loc = torch.tensor([0.3, -0.4], dtype=torch.float64).requires_grad_()
    x = torch.tensor([0.5, -0.5], dtype=torch.float64)

    def plate():
        return pyro.plate("data", 6, subsample=torch.tensor([0, 4]), dim=-1)

    def model():
        with plate(), pyro.poutine.mask(mask=torch.tensor([True, False])):
            y = pyro.sample("y", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0))
            z = pyro.sample("z", dist.Categorical(logits=torch.zeros(4, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(y + z, 1.0), obs=x)

    def guide():
        with plate(), pyro.poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("y", dist.Normal(loc, 0.5))
            pyro.sample("z", dist.Categorical(logits=logits))

    means = []
    for analytic_kl in (True, False):
        elbo = TraceUnorderedSet_ELBO(
            k, analytic_kl=analytic_kl, num_particles=20_000, vectorize_particles=True, max_plate_nesting=1
        )
        runs = []
        for _ in range(20):
            loss = elbo.differentiable_loss(model, guide)
            runs.append(torch.cat([loss.detach().reshape(1), *(g.flatten() for g in gradients(loss, [logits, loc]))]))
        means.append(torch.stack(runs))
    closed, sampled = means
    error = (closed.var(0) / 20 + sampled.var(0) / 20).sqrt().clamp_min(1e-12)
    assert ((closed.mean(0) - sampled.mean(0)).abs() / error).max() < 4.5
