import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch.utils.data import DataLoader

from pyro_ext.datasets import IndexedDataset, collate, load, simulated_worms
from pyro_ext.inference import FitSettings, fit
from pyro_ext.models.neuron_matching import Guide, LinearDynamics, Model, build
from pyro_ext.models.neuron_matching.evaluation import identify
from pyro_ext.models.toolkit.relaxed_permutations import (
    GumbelSinkhornFamily,
    GumbelSinkhornSettings,
    RoundingFamily,
    RoundingSettings,
)
from pyro_ext.ops.assignment import permutation_matrix

FAMILIES = {
    "rounding": (RoundingFamily, RoundingSettings),
    "gumbel_sinkhorn": (GumbelSinkhornFamily, GumbelSinkhornSettings),
}
METHODS = tuple(FAMILIES)
N = 8


@pytest.fixture
def data():
    return simulated_worms(num_worms=2, num_neurons=N, num_connections=14, num_nearby=4, num_known=2, num_steps=50)


def pair(data, method, **settings):
    family, own_settings = FAMILIES[method]
    shared = family(N, own_settings(**settings))
    return Model(data, shared), Guide(data, shared)


def guide_of(plan):
    return plan.elbo_objective("test").guide


def loader(data, batch_size=1):
    return DataLoader(data.valid, batch_size=batch_size, collate_fn=collate)


def train(plan, data, steps):
    objective = plan.elbo_objective("test")
    optimizer = plan.players[0].optimizer.make(objective.named_parameters())
    batch = data.train.__getitems__(range(len(data.train)))
    for _ in range(steps):
        optimizer.zero_grad()
        objective(*batch).total.backward()
        optimizer.step()


@pytest.mark.parametrize("method", METHODS)
def test_shapes_and_scale(data, method):
    model, guide = pair(data, method)
    batch = data.train.__getitems__([1])
    guide_trace = poutine.trace(guide).get_trace(*batch)
    trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(*batch)
    trace.compute_log_prob()
    assert trace.nodes["weights"]["value"].shape == (28,)
    assert trace.nodes["permutation"]["value"].shape == (1, N, N)
    assert [trace.nodes[site]["scale"] for site in ("weights", "permutation", "activity")] == [1, 2, 2]
    assert trace.nodes["activity"]["log_prob"].shape == (1,)
    assert trace.nodes["worms"]["value"].tolist() == [1]


@pytest.mark.parametrize("method", METHODS)
def test_matrices_keep_to_the_candidates(data, method):
    model, guide = pair(data, method)
    batch = data.train.__getitems__([1, 0])
    trace = poutine.trace(guide).get_trace(*batch)
    matrix = poutine.replay(model, trace)(*batch)
    candidates, known = data.candidates[[1, 0]], data.known[[1, 0]]
    assert (matrix[~candidates] == 0).all()
    assert (matrix[known] == candidates[known]).all()
    assert ((matrix != 0) == candidates).all()


def test_likelihood_of_the_truth(data):
    model, _ = pair(data, "rounding")
    truth = permutation_matrix(data.valid.y)
    weights = data.weights.flatten()[model.connections]
    torch.testing.assert_close(model.weight_matrix(weights), data.weights)
    conditioned = poutine.condition(model, {"weights": weights, "permutation": truth})
    trace = poutine.trace(conditioned).get_trace(*data.train.__getitems__(range(2)))
    trace.compute_log_prob()
    for j, place in enumerate(data.valid.y):
        own = data.weights[place][:, place]
        expected = LinearDynamics(own, data.num_steps).log_prob(data.train.x[j])
        torch.testing.assert_close(trace.nodes["activity"]["log_prob"][j], expected)


def test_losses_of_single_worms_average_to_that_of_all(data):
    # With next to no noise in the guide the loss is the same at every call.
    model, guide = pair(data, "rounding", min_scale=1e-7, max_scale=2e-7)
    with torch.no_grad():
        guide.weight_loc.normal_(std=0.1)
        guide.weight_log_scale.fill_(-15)
        guide.local["loc"].normal_()
    elbo = Trace_ELBO(max_plate_nesting=1)
    noiseless = {"weights": guide.weights().loc}
    model, guide = poutine.condition(model, noiseless), poutine.block(guide, hide=["weights"])
    whole, first, second = (elbo.loss(model, guide, *data.train.__getitems__(i)) for i in ([0, 1], [0], [1]))
    assert abs(first - second) > 1
    # What is left of noise: about 100 nats of entropy whose draws have a standard deviation of 6.
    assert (first + second) / 2 == pytest.approx(whole, abs=60)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_every_parameter(data, method, dtype):
    objective = build(data, method).elbo_objective("test").to(dtype)
    x, y, index = data.train.__getitems__(range(2))
    with torch.no_grad():
        objective.guide.weight_loc.normal_()
    objective(x.to(dtype), y, index).total.backward()
    for parameter in objective.parameters():
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0
    loc = objective.guide.local["loc"].grad
    assert (loc[~data.candidates] == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_batches_leave_other_worms_alone(data, method):
    objective = build(data, method).elbo_objective("test")
    with torch.no_grad():
        objective.guide.weight_loc.normal_()
    objective(*data.train.__getitems__([1])).total.backward()
    assert (objective.guide.local["loc"].grad[0] == 0).all()
    assert (objective.guide.local["loc"].grad[1] != 0).any()


@pytest.mark.parametrize("method", METHODS)
def test_vectorised_particles(data, method):
    model, guide = pair(data, method)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    assert elbo.differentiable_loss(model, guide, *data.train.__getitems__(range(2))).isfinite()


@pytest.mark.parametrize("method", METHODS)
def test_training_identifies_the_neurons(method):
    data = simulated_worms(num_neurons=10, num_connections=20, num_nearby=3, num_known=3, num_steps=2000, seed=3)
    plan = build(data, method)
    before = plan.evaluate(loader(data))
    train(plan, data, 60)
    after = plan.evaluate(loader(data))
    assert before["accuracy"] < 0.6
    assert after["accuracy"] >= 0.85
    assert after["accuracy_all"] >= after["accuracy"]


def test_smaller_weight_units_move_weights_less(data):
    moved = []
    for unit in (1.0, 0.1):
        pyro.set_rng_seed(0)
        plan = build(data, weight_unit=unit)
        train(plan, data, 1)
        moved.append(guide_of(plan).weights().loc.detach())
    assert moved[0].abs().max().item() == pytest.approx(0.1, rel=1e-3)  # Adam's first step
    torch.testing.assert_close(moved[1], 0.1 * moved[0])


@pytest.mark.filterwarnings("ignore:.*num_workers:UserWarning")
def test_fit_trains_and_evaluates_it(data, tmp_path):
    plan = build(data, evaluation_samples=4)
    result = fit(plan, data, FitSettings(max_epochs=2, batch_size=2, seed=0), out=tmp_path / "run")
    assert [*result.metrics] == ["train_loss", "accuracy", "accuracy_all"]
    assert (plan.headline, plan.headline_mode) == ("accuracy", "max")
    assert len(pyro.get_param_store()) == 0


def test_svi_trains_it(data):
    model, guide = pair(data, "gumbel_sinkhorn")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(max_plate_nesting=1))
    batch = data.train.__getitems__(range(2))
    losses = [svi.step(*batch) for _ in range(25)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_evaluation_counts_identities(data):
    plan = build(data)
    truth = permutation_matrix(data.valid.y)
    with torch.no_grad():
        guide_of(plan).local["loc"].copy_(20 * truth)
    assert plan.evaluate(loader(data)) == {"accuracy": 1.0, "accuracy_all": 1.0}
    unknown = ~data.known
    # Worm 0 with two unknown neurons that may be each other taken for each other.
    swapped, y = truth.clone(), data.valid.y[0]
    a = int(unknown[0].nonzero()[0])
    b = next(i for i in range(N) if i != a and data.candidates[0, a, y[i]] and data.candidates[0, i, y[a]])
    swapped[0, [a, b]] = truth[0, [b, a]]
    with torch.no_grad():
        guide_of(plan).local["loc"].copy_(20 * swapped)
    metrics = plan.evaluate(loader(data))
    assert metrics["accuracy_all"] == pytest.approx(1 - 2 / (2 * N))
    assert metrics["accuracy"] == pytest.approx(1 - 2 / int(unknown.sum()))


def test_evaluation_repeats_and_leaves_the_noise_alone(data):
    plan = build(data, evaluation_samples=3)
    pyro.set_rng_seed(1)
    first = plan.evaluate(loader(data))
    drawn = torch.rand(3)
    second = plan.evaluate(loader(data, batch_size=1))
    pyro.set_rng_seed(1)
    assert first == second
    assert torch.equal(drawn, torch.rand(3))


def test_evaluation_of_nothing(data):
    plan = build(data)
    with pytest.raises(ValueError, match="loader must hold at least one worm, got none"):
        plan.evaluate([])
    with pytest.raises(ValueError, match="loader must hold the true identities y"):
        plan.evaluate([data.train.__getitems__([0])])


def test_recordings_without_identities(data):
    data.valid = IndexedDataset(data.valid.x)
    plan = build(data)
    assert plan.evaluate is None
    assert plan.headline == ""
    assert list(plan.plots) == ["marginals"]
    assert plan.plots["marginals"]().images[0].get_array().shape == (N, N)


def test_plots(data):
    from matplotlib.figure import Figure

    plan = build(data)
    ax = Figure().add_subplot()
    assert plan.plots["marginals"](ax=ax) is ax
    with torch.no_grad():
        guide_of(plan).local["loc"].copy_(20 * permutation_matrix(data.valid.y))
    cells = plan.plots["marginals"]().images[0].get_array()
    assert (cells.diagonal() == 1).all()
    assert [bar.get_height() for bar in plan.plots["accuracy"]().patches] == [1.0] * 4


def test_identities_are_a_permutation_of_candidates():
    marginals = torch.tensor([[[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.0, 0.0, 1.0]]])
    everything = torch.ones(1, 3, 3, dtype=torch.bool)
    assert identify(marginals, everything).tolist() == [[0, 1, 2]]
    candidates = everything.clone()
    candidates[0, 0, 0] = False
    assert identify(marginals, candidates).tolist() == [[1, 0, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "stick_breaking"}, "method must be one of rounding, gumbel_sinkhorn; got 'stick_breaking'"),
        ({"weight_scale": 0}, "weight_scale must be a positive, finite number, got 0"),
        ({"weight_unit": float("inf")}, "weight_unit must be a positive, finite number, got inf"),
        ({"evaluation_samples": 0}, "evaluation_samples must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options(data, options, message):
    with pytest.raises(ValueError, match=message):
        build(data, **options)


def test_defaults_are_those_of_the_publication(data):
    settings = {method: guide_of(build(data, method)).family.settings for method in METHODS}
    assert settings["rounding"] == RoundingSettings(1.0, 1e-4, 0.07, 0.3, 10, "pathwise")
    assert settings["gumbel_sinkhorn"] == GumbelSinkhornSettings(1.0, 1.0, 10)


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="data must be recordings of worms, got 'digits'; load"):
        build(load("digits"))


def test_candidates_without_a_permutation_are_refused(data):
    data.candidates[1, :, 0] = False
    with pytest.raises(ValueError, match=r"data\.candidates must hold a permutation for each worm"):
        build(data)


@pytest.mark.parametrize("module", [0, 1])
def test_moments_of_other_sizes_are_refused(data, module):
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 16, 16\), got \(2, 8, 8\)"):
        pair(data, "rounding")[module](torch.zeros(2, 8, 8))
