import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_ext.inference import RelaxReparam, TraceVIMCO_ELBO, relax
from pyro_ext.models.structured_output import DensityModel, Units, importance_bounds
from pyro_ext.models.toolkit import Relaxation
from tests.models.structured_output.tiny import exact_bound, exact_log_likelihood, networks

TASKS = [("density", {}), ("density", {"layers": 1, "categories": 4}), ("lower_half", {})]


def images(number=6, pixels=4):
    return (torch.rand(number, pixels, generator=torch.Generator().manual_seed(1)) > 0.5).double()


@pytest.mark.parametrize(("task", "options"), TASKS)
def test_probabilities_sum_to_one(task, options):
    model, guide = networks(task, **options)
    assert_sums_to_one(task, model, guide)
    assert_sums_to_one(task, *networks(task, nonlinear=True, **options))


def assert_sums_to_one(task, model, guide):
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).double()
    total = exact_log_likelihood(model, guide, every).exp().sum().item()
    assert total == pytest.approx(1 if task == "density" else 4)  # four upper halves


@pytest.mark.parametrize(("task", "options"), TASKS)
def test_the_bound_is_below_the_likelihood_and_converges(task, options):
    model, guide = networks(task, **options)
    x = images()
    exact = -exact_log_likelihood(model, guide, x).mean().item()
    pyro.set_rng_seed(0)
    copies = x.repeat(200, 1)
    bounds = [importance_bounds(model, guide, number, 4, copies)[0].mean().item() for number in (1, 10, 2000)]
    # Bounds of one sample spread by about 2 nats: standard error 2 / sqrt(1200) = 0.06, below that of the others.
    assert bounds[0] > bounds[1] > bounds[2] > exact - 0.03
    assert bounds[2] == pytest.approx(exact, abs=0.1)


def test_the_bound_of_one_sample_is_the_elbo():
    model, guide = networks("density")
    x = images()
    pyro.set_rng_seed(0)
    bound, elbo = importance_bounds(model, guide, 20_000, 4, x)
    # Log-weights spread by about 3 nats: standard error 3 / sqrt(20,000) / sqrt(6) = 0.01.
    assert elbo.mean().item() == pytest.approx(-exact_bound(model, guide, x).mean().item(), abs=0.05)
    assert (bound <= elbo).all()


def test_chunks_are_of_no_consequence():
    model, guide = networks("density")
    x = images()
    pyro.set_rng_seed(0)
    copies = x.repeat(100, 1)  # drawn 3000 at once, and in chunks of 6
    whole, parts = (importance_bounds(model, guide, 20, width, copies) for width in (4, 2**22 // 3600))
    for one, other in zip(whole, parts, strict=True):
        # Standard errors below 2 / sqrt(600) = 0.08 nats.
        assert one.mean().item() == pytest.approx(other.mean().item(), abs=0.3)


@pytest.mark.parametrize("task", ["density", "lower_half"])
def test_sites_scale_and_shapes(task):
    model, guide = networks(task, size=12, categories=4)
    guide_trace = poutine.trace(guide).get_trace(images())
    trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(images())
    trace.compute_log_prob()
    observed = "x" if task == "density" else "lower"
    for name in ("h1", "h2", observed):
        assert trace.nodes[name]["scale"] == 2
        assert trace.nodes[name]["log_prob"].shape == (6,)
    assert guide_trace.nodes["h2"]["value"].shape == (6, 1, 4)
    assert model.parents == (
        {"x": ("h1",), "h1": ("h2",), "h2": ()} if task == "density" else {"h1": (), "h2": ("h1",), "lower": ("h2",)}
    )


def test_shared_layers_cancel():
    model, guide = networks("lower_half")
    guide_trace = poutine.trace(guide).get_trace(images())
    trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(images())
    trace.compute_log_prob(), guide_trace.compute_log_prob()
    for name in ("h1", "h2"):
        assert torch.equal(trace.nodes[name]["log_prob"], guide_trace.nodes[name]["log_prob"])


@pytest.mark.parametrize("num_particles", [1, 3])
def test_layers_without_scores_give_the_same_loss_and_gradient(num_particles):
    model, guide = networks("lower_half")
    results = []
    for scored in (True, False):
        model.hidden.scored = scored
        reparam = RelaxReparam(0.6, "relaxed_density")
        elbo = TraceVIMCO_ELBO(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)
        pyro.set_rng_seed(0)
        loss = elbo.differentiable_loss(relax(model, reparam), relax(guide, reparam), images())
        results.append((loss, *torch.autograd.grad(loss, [*model.parameters()])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_base_rates():
    x = (torch.rand(400, 6) < torch.linspace(0.1, 0.9, 6)).float()
    model = DensityModel(400, 6, Units(3))
    model.start_at_base_rates(x)
    torch.testing.assert_close(model.below[0][-1].bias.sigmoid(), x.mean(0), rtol=0, atol=0.01)


def test_two_temperatures(toy):
    from pyro_ext.models.structured_output import build

    relaxation = Relaxation("relaxed_density", False, 0.6, rate=0.1, floor=0.3, model_temperature=0.4)
    plan = build(toy, "density", units=4, relaxation=relaxation)
    objective = plan.elbo_objectives[0]
    of_guide, of_model = objective.guide.schedules[0], objective.model.schedules[0]
    for schedule in plan.schedules:
        schedule(5)
    assert of_guide().item() == pytest.approx(0.6 * 2.718281828**-0.5)
    assert of_model().item() == pytest.approx(0.4 * 2.718281828**-0.5)
    assert (of_guide.temperature_at(1000), of_model.temperature_at(1000)) == pytest.approx((0.3, 0.2))
    with pytest.raises(ValueError, match="model_temperature must be a positive, finite number, got -1"):
        build(toy, "density", units=4, relaxation=Relaxation(model_temperature=-1))


def test_batches_of_another_width_are_refused():
    for program in networks("density"):
        with pytest.raises(ValueError, match=r"x must have shape \(batch, 4\), got \(2, 3\)"):
            program(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 4\), got \(2, 3\)"):
        networks("lower_half")[0](torch.zeros(2, 3))


def test_relaxed_density_bounds_from_below_on_average():
    """The bound of the relaxed model has a finite value and a gradient in every parameter."""
    model, guide = networks("density")
    reparam = RelaxReparam(0.6, "relaxed_density")
    loss = Trace_ELBO(max_plate_nesting=1).differentiable_loss(relax(model, reparam), relax(guide, reparam), images())
    loss.backward()
    for parameter in (*model.parameters(), *guide.parameters()):
        assert parameter.grad.abs().sum() > 0
