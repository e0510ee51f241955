import math

import pyro
import pytest
import torch
from torch.utils.data import DataLoader

from pyro_ext.cli.__main__ import main
from pyro_ext.datasets import IndexedDataset, Splits, collate, load
from pyro_ext.inference import (
    FitSettings,
    TraceLeaveOneOut_ELBO,
    TraceUnorderedSet_ELBO,
    TraceVIMCO_ELBO,
    fit,
)
from pyro_ext.models.structured_output import LearnedBaselineELBO, build
from pyro_ext.models.toolkit import Relaxation

RELAXATIONS = {
    "relaxed_density": Relaxation("relaxed_density", False, 0.66),
    "relaxed_categorical": Relaxation("relaxed_categorical", False, 0.66),
    "categorical": Relaxation("categorical", False, 0.66),
    "straight-through": Relaxation("relaxed_categorical", True, 0.66),
    "straight-through, annealed": Relaxation("categorical", True, 1.0, rate=0.01, every=2),
}


def short_run(plan, data, epochs=2):
    settings = FitSettings(max_epochs=epochs, batch_size=20, seed=0)
    return fit(plan, data, settings, enable_progress_bar=False, accelerator="cpu")


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("task", ["density", "lower_half"])
@pytest.mark.parametrize("relaxation", [None, *RELAXATIONS])
@pytest.mark.filterwarnings("ignore:images cost")
def test_every_objective_trains(toy, task, relaxation, samples):
    plan = build(
        toy, task, units=4, categories=4 if samples == 3 else 2, samples=samples, relaxation=RELAXATIONS.get(relaxation)
    )
    before = {name: value.clone() for name, value in plan.elbo_objectives[0].named_parameters()}
    result = short_run(plan, toy)
    assert all(math.isfinite(value) for value in result.metrics.values())
    for name, value in plan.elbo_objectives[0].named_parameters():
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("task", ["density", "lower_half"])
@pytest.mark.parametrize("elbo", [TraceLeaveOneOut_ELBO, TraceUnorderedSet_ELBO])
@pytest.mark.filterwarnings("ignore:images cost")
def test_sample_sets_train_dependent_layers(toy, task, elbo):
    plan = build(toy, task, layers=3, units=3, nonlinear=True).with_elbo(elbo(num_samples=2, max_plate_nesting=1))
    assert math.isfinite(short_run(plan, toy, 1).metrics["neg_log_likelihood"])


def test_which_elbo(toy):
    assert isinstance(build(toy, units=4, samples=1).elbo_objectives[0].elbo, LearnedBaselineELBO)
    for options in ({}, {"samples": 1, "relaxation": Relaxation()}):
        assert isinstance(build(toy, units=4, **options).elbo_objectives[0].elbo, TraceVIMCO_ELBO)
    assert build(toy, units=4, samples=7).elbo_objectives[0].elbo.num_particles == 7
    images = IndexedDataset(torch.zeros(4, 300))
    assert build(toy).players[0].optimizer.lr == 3e-3
    assert build(Splits("blank", images, images), "density").players[0].optimizer.lr == 1e-3


def test_it_learns():
    data = load("digits", num_train=300)
    pyro.set_rng_seed(0)
    plan = build(data, units=30, relaxation=RELAXATIONS["relaxed_density"], evaluation_samples=20)
    metrics = short_run(plan, data, 10).metrics
    assert metrics["neg_log_likelihood"] < metrics["base_rate"] - 1
    assert metrics["neg_log_likelihood"] <= metrics["neg_elbo"]


def test_without_hidden_layers_it_starts_at_the_base_rates(toy):
    plan = build(toy, "density", units=4)
    bound = plan.elbo_objectives[0]
    with torch.no_grad():
        bound.model.below[0][-1].weight.zero_()
        bound.guide.above[0][-1].weight.zero_(), bound.guide.above[0][-1].bias.zero_()
        bound.guide.above[1][-1].weight.zero_(), bound.guide.above[1][-1].bias.zero_()
        bound.model.below[1][-1].weight.zero_(), bound.model.below[1][-1].bias.zero_()
    metrics = plan.evaluate(DataLoader(toy.valid, batch_size=4, collate_fn=collate))
    assert metrics["neg_log_likelihood"] == pytest.approx(metrics["base_rate"], rel=1e-5)
    assert metrics["neg_elbo"] == pytest.approx(metrics["base_rate"], rel=1e-5)
    (message,) = plan.diagnose({"neg_log_likelihood": 9.0, "base_rate": 8.0})
    assert message.startswith("images cost 9.00 nats, and 8.00 by the frequencies of single pixels")
    assert plan.diagnose({"neg_log_likelihood": 7.0, "base_rate": 8.0}) == []


def test_an_objective_that_is_no_bound_is_said_to_be_none(toy):
    said = [
        "not minus a lower bound" in build(toy, task, units=4, samples=samples, relaxation=RELAXATIONS[name]).remarks
        for task, samples, name in (
            ("density", 3, "categorical"),
            ("density", 1, "categorical"),
            ("lower_half", 3, "categorical"),
            ("density", 3, "straight-through"),
        )
    ]
    assert said == [True, False, False, False]


def test_evaluation_repeats(toy):
    loader = DataLoader(toy.valid, batch_size=4, collate_fn=collate)
    plan = build(toy, units=4)
    assert plan.evaluate(loader) == plan.evaluate(loader)


@pytest.mark.parametrize(("task", "plots"), [("density", {"images", "samples"}), ("lower_half", {"completions"})])
def test_plots(toy, task, plots):
    plan = build(toy, task, units=4)
    assert plan.plots.keys() == plots
    for draw in plan.plots.values():
        assert draw().images
    if task == "lower_half":  # the upper halves are those of the images
        pixels = plan.plots["completions"]().images[0].get_array()
        assert (pixels[1:3] == pixels[6:8]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "upper_half"}, "task must be one of lower_half, density; got 'upper_half'"),
        ({"layers": 0}, "layers must be an integer of at least 1, got 0"),
        ({"units": 0}, "units must be an integer of at least 1, got 0"),
        ({"units": 5, "categories": 4}, "units must be a multiple of 2"),
        ({"categories": 3}, "categories must be a power of 2 with coding='corners', got 3"),
        ({"samples": 0}, "samples must be an integer of at least 1, got 0"),
        ({"evaluation_samples": 0}, "evaluation_samples must be an integer of at least 1, got 0"),
        ({"relaxation": Relaxation(temperature=0)}, "temperature must be a positive, finite number"),
        ({"relaxation": Relaxation(model_temperature=0.5)}, "model_temperature must be None with task='lower_half'"),
    ],
)
def test_bad_options(toy, options, message):
    with pytest.raises(ValueError, match=message):
        build(toy, **options)


@pytest.mark.parametrize(
    ("x", "shape", "message"),
    [
        (torch.zeros(4, 15), (5, 3), r"data.image_shape must have an even height.*got \(5, 3\); cut or pad"),
        (torch.zeros(4, 15), (4, 3), r"as many pixels as a row of data.train.x has \(15\)"),
        (torch.zeros(4, 12), None, "data.image_shape must be .* with task='lower_half', got None"),
        (torch.full((4, 12), 0.5), (4, 3), r"data.train.x must hold zeros and ones, got values in \[0.5, 0.5\]"),
        (torch.zeros(4, 4, 3), (4, 3), r"data.train.x must have shape \(N, pixels\), got \(4, 4, 3\)"),
        (torch.zeros(4, 12).long(), (4, 3), r"data.train.x must be of a floating-point type.*use .float\(\)"),
    ],
)
def test_bad_images(x, shape, message):
    with pytest.raises(ValueError, match=message):
        build(Splits("bad", IndexedDataset(x), image_shape=shape))


def test_two_streams_are_refused():
    with pytest.raises(ValueError, match=r"data.train must hold images as rows of x, .* got TwoStreams"):
        build(load("few_labels"))


COMMANDS = {
    "VIMCO": [],
    "learned baselines": ["--model.samples", "1"],
    "score function": ["--elbo", "Trace_ELBO"],
    "leave one out": ["--elbo", "TraceLeaveOneOut_ELBO", "--elbo.num_samples", "2"],
    "unordered set": ["--elbo", "TraceUnorderedSet_ELBO", "--elbo.num_samples", "2", "--model.task", "density"],
    "sum and sample": ["--elbo", "TraceSumAndSample_ELBO", "--elbo.num_samples", "2"],
    "DisARM": ["--elbo", "TraceDisARM_ELBO", "--model.layers", "1"],
    "beam": ["--elbo", "TraceUnorderedBeam_ELBO", "--elbo.num_samples", "2", "--model.task", "density"],
    "Concrete": ["--model.relaxation.objective", "relaxed_density", "--model.relaxation.straight_through", "false"],
    "one-hot": ["--model.coding", "one_hot", "--model.categories", "3", "--elbo", "TraceVIMCO_ELBO"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.filterwarnings("ignore:images cost")
def test_every_elbo_from_the_command_line(name, tmp_path, capsys):
    words = ["fit", "structured_output", "--model.units", "6", "--model.evaluation_samples", "2", "--seed", "0"]
    words += ["--data.num_train", "40", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    assert main([*words, "--out", str(tmp_path / "run"), *COMMANDS[name]]) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "completions.png").exists() or (tmp_path / "run" / "samples.png").exists()


def test_a_resumed_run_is_told_which_option_differs(tmp_path, capsys):
    words = ["fit", "structured_output", "--trainer.accelerator", "cpu", "--out", str(tmp_path / "run")]
    small = ["--data.num_train", "20", "--model.units", "2", "--model.evaluation_samples", "2", "--seed", "0"]
    assert main([*words, *small, "--trainer.max_epochs", "1"]) == 0
    capsys.readouterr()
    assert main([*words, "--resume", "--model.samples", "9"]) == 2
    assert "model.samples=9, but the run to resume began with model.samples=5; use the same" in capsys.readouterr().err
