"""Matching of points: the programs, their training, metrics, plots and options."""

import itertools
import math
from typing import get_args

import pyro
import pytest
import torch
from pyro import poutine
from torch.utils.data import DataLoader

from pyro_ext.cli.__main__ import main
from pyro_ext.datasets import IndexedDataset, PointProblems, collate, load, point_matching
from pyro_ext.distributions import PermutationMatching
from pyro_ext.inference import FitSettings, TraceUnorderedSet_ELBO, fit, local_params
from pyro_ext.models.point_matching import Guide, Model, build
from pyro_ext.models.point_matching.evaluation import Evaluation, best_matching, exact_posterior, log_potentials
from pyro_ext.models.point_matching.model import Method
from pyro_ext.models.toolkit.relaxed_permutations import RoundingFamily, RoundingSettings, StickBreakingSettings

METHODS = get_args(Method)
NOISE = 0.5


@pytest.fixture
def data():
    return point_matching(NOISE, num_problems=6, size=3)


def loader(data, batch_size=4):
    return DataLoader(data.valid, batch_size=batch_size, collate_fn=collate)


def programs(plan):
    objective = plan.elbo_objective("test")
    return objective.model, objective.guide


def train(plan, x, steps):
    objective = plan.elbo_objective("test")
    optimizer = plan.players[0].optimizer.make(objective.named_parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        objective(x).total.backward()
        optimizer.step()


def distances(plan, data, samples=2000):
    with local_params():
        evaluation = Evaluation(programs(plan)[1], data.noise, samples, seed=0)
        return evaluation.metrics(*data.valid.__getitems__(range(len(data.valid))))["hellinger"]


def exact_loss(guide, problems, noise):
    """KL of the guide from the prior less the expected log-likelihood, summed over problems, by listing."""
    d, total = guide.permutation_distribution(), 0.0
    for item, (points, observed) in enumerate(problems):
        for order in itertools.permutations(range(len(points))):
            value = torch.eye(len(points)).to(points)[list(order)]
            log_q = d.log_prob(value)[item]
            log_p = torch.distributions.Normal(points[list(order)], noise).log_prob(observed).sum()
            total = total + log_q.exp() * (log_q - log_p + math.lgamma(len(points) + 1))
    return total


def test_posterior_is_that_of_bayes():
    x = point_matching(0.4, num_problems=3, size=4).train.x.double()
    for (points, observed), potentials in zip(x, exact_posterior(x, 0.4).log_potentials, strict=True):
        orders = list(itertools.permutations(range(4)))
        likelihood = torch.stack(
            [torch.distributions.Normal(points[list(order)], 0.4).log_prob(observed).sum() for order in orders]
        )
        listed = PermutationMatching(potentials)
        torch.testing.assert_close(
            listed.log_prob(listed.enumerate_support()).exp(), likelihood.softmax(0), rtol=1e-9, atol=1e-12
        )


def test_best_matching_is_the_mode_of_the_posterior():
    x = point_matching(0.5, num_problems=50).train.x
    assert torch.equal(best_matching(x), exact_posterior(x, 0.3).mode)


def test_shapes_and_scale(data):
    batch = data.train.__getitems__([4, 1])
    family = RoundingFamily(3, RoundingSettings())
    guide_trace = poutine.trace(Guide(family, 6)).get_trace(*batch)
    trace = poutine.trace(poutine.replay(Model(6, family, NOISE), guide_trace)).get_trace(*batch)
    trace.compute_log_prob()
    assert trace.nodes["problems"]["value"].tolist() == [4, 1]
    assert trace.nodes["_RETURN"]["value"].shape == (2, 3, 3)
    assert [t.nodes[n]["scale"] for t, n in ((guide_trace, "permutation"), (trace, "observed"))] == [3, 3]
    assert trace.nodes["observed"]["log_prob"].shape == (2,)


@pytest.mark.parametrize("method", ["exact_stick_breaking", "matching"])
def test_whole_sets_give_the_exact_loss(data, method):
    model, guide = programs(build(data, method=method))
    with torch.no_grad():
        for value in guide.local.values():
            value.copy_(torch.randn(value.shape))
    expected = exact_loss(guide, data.train.x, NOISE)
    elbo = TraceUnorderedSet_ELBO(num_samples=6, max_plate_nesting=1)
    whole = elbo.loss(model, guide, *data.train.__getitems__(range(6)))
    halves = [elbo.loss(model, guide, *data.train.__getitems__(rows)) for rows in ([0, 2, 5], [1, 3, 4])]
    assert whole == pytest.approx(expected.item(), rel=1e-5)
    assert sum(halves) / 2 == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_every_parameter(data, method, dtype):
    objective = build(data, method=method).elbo_objective("test").to(dtype)
    objective(data.train.x.to(dtype)).total.backward()
    for parameter in objective.guide.parameters():
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).any(-1).any(-1).all()


def test_the_exponential_family_finds_the_posterior():
    data = point_matching(NOISE, num_problems=10, size=3)
    elbo = TraceUnorderedSet_ELBO(num_samples=4, max_plate_nesting=1)
    plan = build(data, method="matching", start="uniform").with_elbo(elbo)
    before = distances(plan, data).mean()
    train(plan, data.train.x, steps=40)
    assert before > 0.3
    assert distances(plan, data).mean() < 0.1


@pytest.mark.parametrize(("method", "bound"), [("rounding", 0.25), ("gumbel_sinkhorn", 0.3)])
def test_relaxed_families_come_nearer(method, bound):
    data = point_matching(NOISE, num_problems=20, size=4)
    plan = build(data, method=method)
    before = distances(plan, data, 500).mean()
    train(plan, data.train.x, steps=60)
    assert distances(plan, data, 500).mean() < min(bound, before)


def test_metrics_of_the_posterior_itself():
    data = point_matching(NOISE, num_problems=30)
    plan = build(data, method="matching")
    with torch.no_grad():
        programs(plan)[1].local["loc"].copy_(log_potentials(data.train.x, NOISE))
    metrics = plan.evaluate(loader(data))
    assert metrics["hellinger"] < 1e-3
    assert metrics["mode"] == 1
    assert metrics["accuracy"] == metrics["posterior_accuracy"]
    marginals = exact_posterior(data.valid.x[:5], NOISE).mean
    best = [max(itertools.permutations(range(6)), key=lambda order: p[range(6), order].sum()) for p in marginals]
    right = (torch.tensor(best) == data.valid.y[:5]).double().mean().item()
    assert plan.evaluate([data.valid.__getitems__(range(5))])["accuracy"] == pytest.approx(right)
    assert right < 1


def test_samples_come_near_the_probabilities_they_stand_for(data):
    plan = build(data, method="matching", start="uniform")
    known = distances(plan, data)
    programs(plan)[1].family.permutation_distribution = lambda *_: None  # as if they were not known
    # the squared distance to frequencies of 20,000 samples is too large by at most 6 / (8 * 20,000)
    torch.testing.assert_close(distances(plan, data, samples=20_000), known, atol=5e-3, rtol=0)


def test_large_problems_have_no_distance():
    metrics = build(point_matching(num_problems=3, size=8), evaluation_samples=20).evaluate(
        loader(point_matching(num_problems=3, size=8))
    )
    assert sorted(metrics) == ["accuracy", "posterior_accuracy"]
    data = point_matching(0.05, num_problems=2, size=20)
    assert sorted(build(data, evaluation_samples=20).evaluate(loader(data))) == ["accuracy"]


def test_evaluation_repeats_and_leaves_the_noise_alone(data):
    plan = build(data)
    pyro.set_rng_seed(1)
    first = plan.evaluate(loader(data))
    drawn = torch.rand(3)
    torch.rand(17)
    second = plan.evaluate(loader(data, batch_size=4))
    pyro.set_rng_seed(1)
    assert first == second
    assert torch.equal(drawn, torch.rand(3))
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("size", [1, 3, 20])
def test_plots(size):
    from matplotlib.figure import Figure

    plot = build(point_matching(num_problems=4, size=size), evaluation_samples=10).plots["marginals"]
    ax = Figure().add_subplot()
    assert plot(ax=ax) is ax
    rows = 1 if size == 20 else 2
    assert ax.images[0].get_array().shape == (rows * (size + 1) + 1, 4 * (size + 1) + 1)


def test_plot_shows_the_posterior_above_the_guide(data):
    plan = build(data, method="matching")
    pixels = plan.plots["marginals"]().images[0].get_array()
    exact = exact_posterior(data.train.x[:1].double(), NOISE).mean[0]
    torch.testing.assert_close(torch.tensor(pixels[1:4, 1:4]), exact)
    of_guide = programs(plan)[1].permutation_distribution().mean[0].detach().double()
    torch.testing.assert_close(torch.tensor(pixels[5:8, 1:4]), of_guide)


def test_starts(data):
    near, centre = (programs(build(data, method="matching", start=start))[1] for start in ("map", "uniform"))
    assert torch.equal(near.permutation_distribution().mode, best_matching(data.train.x))
    assert centre.local["loc"].abs().max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sorting"}, "method must be one of rounding, .*; got 'sorting'"),
        ({"start": "truth"}, "start must be one of uniform, map; got 'truth'"),
        ({"evaluation_samples": 0}, "evaluation_samples must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options(data, options, message):
    with pytest.raises(ValueError, match=message):
        build(data, **options)


def test_bad_data(data):
    with pytest.raises(ValueError, match="data must be point problems, got 'digits'; load"):
        build(load("digits"))
    with pytest.raises(ValueError, match=r"data.train.x must have shape \(num_problems, 2, N, 2\), got \(5, 3\)"):
        build(PointProblems("flat", IndexedDataset(torch.zeros(5, 3)), IndexedDataset(torch.zeros(5, 3))))
    other = point_matching(NOISE, num_problems=6, size=3, seed=1)
    with pytest.raises(ValueError, match=r"data\.valid must hold the problems of data.train"):
        build(PointProblems("mixed", data.train, other.valid))
    plan = build(data)
    with pytest.raises(ValueError, match="loader must give the true permutations"):
        plan.evaluate(DataLoader(data.train, batch_size=2, collate_fn=collate))
    with pytest.raises(ValueError, match="loader must hold at least one data point, got none"):
        plan.evaluate([])
    for program in programs(plan):
        with pytest.raises(ValueError, match=r"x must have shape \(batch, 2, 3, 2\), got \(4, 2, 6, 2\)"):
            program(torch.zeros(4, 2, 6, 2))


@pytest.mark.parametrize("method", METHODS)
def test_settings_reach_the_family(data, method):
    settings = {"rounding": RoundingSettings(max_scale=0.7), "stick_breaking": StickBreakingSettings(max_scale=0.7)}
    family = programs(build(data, method=method, **settings))[1].family
    assert family.relaxed == (method in ("rounding", "stick_breaking", "gumbel_sinkhorn"))
    if method in settings:
        assert family.settings is settings[method]


@pytest.mark.filterwarnings("ignore:.*num_workers:UserWarning")
def test_fit_trains_and_evaluates_it(data, tmp_path):
    plan = build(data, method="gumbel_sinkhorn", evaluation_samples=10)
    result = fit(plan, data, FitSettings(max_epochs=2, batch_size=6, seed=0), out=tmp_path / "run")
    assert [*result.metrics] == ["train_loss", "accuracy", "hellinger", "mode", "posterior_accuracy"]
    assert (plan.headline, plan.headline_mode) == ("accuracy", "max")
    assert len(pyro.get_param_store()) == 0


def test_command_line(tmp_path):
    options = "--data.num_problems 8 --data.size 4 --data.noise 0.25 --model.method gumbel_sinkhorn --seed 0"
    flags = "--trainer.max_epochs 3 --trainer.enable_progress_bar false --trainer.accelerator cpu"
    words = f"{options} {flags}".split()
    assert main(["fit", "point_matching", *words, "--out", str(tmp_path / "run")]) == 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert report.startswith("# point_matching on point_matching\n")
    assert "| hellinger |" in report
    assert "Each problem has variational parameters of its own" in report
    assert (tmp_path / "run" / "marginals.png").read_bytes().startswith(b"\x89PNG")


def test_defaults_of_the_command_line_are_those_it_needs(capsys):
    """All problems in a batch and long training; other models keep the engine's own."""
    assert main(["fit", "point_matching", "--print_config"]) == 0
    options = capsys.readouterr().out.splitlines()
    assert {"batch_size: 200", "  max_epochs: 150", "    max_scale: 0.25", "    max_scale: 1.0"} <= set(options)


@pytest.mark.gpu
def test_runs_where_its_parameters_are(data):
    for method in METHODS:
        plan = build(data, method=method, evaluation_samples=10)
        objective = plan.elbo_objective("test").cuda()
        objective(data.train.x.cuda()).total.backward()
        assert next(objective.guide.parameters()).grad.is_cuda
        assert math.isfinite(plan.evaluate(loader(data))["hellinger"])
