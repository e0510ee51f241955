"""Relaxation as an option of a model, in Python and on the command line."""

import math

import pyro
import pytest
import torch
from pyro import poutine

from pyro_ext.cli.__main__ import main
from pyro_ext.datasets import Splits, load
from pyro_ext.inference import FitSettings, fit
from pyro_ext.models.categorical_vae import build
from pyro_ext.models.toolkit import Relaxation, linear_ramp

pytestmark = pytest.mark.filterwarnings("ignore:the latent code has collapsed")

SIZES = {"num_latents": 3, "num_categories": 4, "hidden": (16, 8)}
FLAGS = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def data():
    whole = load("digits")
    return Splits("few digits", *(type(part)(part.x[:60], None) for part in (whole.train, whole.valid)))


def temperature_of(program, x):
    """The temperature that a program draws its codes at."""
    trace = poutine.trace(program).get_trace(x)
    return float(trace.nodes["z_log"]["fn"].base_dist.temperature.flatten()[0])


def test_model_and_guide_are_relaxed_and_metrics_are_not(data):
    relaxation = Relaxation("relaxed_density", straight_through=False, temperature=0.7)
    (relaxed,) = build(data, **SIZES, relaxation=relaxation).elbo_objectives
    z = poutine.trace(relaxed.guide).get_trace(data.train.x).nodes["z"]["value"]
    assert ((z > 0.05) & (z < 0.95)).any()
    torch.testing.assert_close(z.sum(-1), torch.ones_like(z[..., 0]))
    for program in (relaxed.model, relaxed.guide):
        assert temperature_of(program, data.train.x) == pytest.approx(0.7)
    # the bare modules are in it, and evaluated
    pyro.set_rng_seed(1)
    plans = build(data, **SIZES, relaxation=relaxation), build(data, **SIZES)
    relaxed, discrete = (plan.elbo_objectives[0] for plan in plans)
    discrete.model.load_state_dict(relaxed.model.program.state_dict())
    discrete.guide.load_state_dict(relaxed.guide.program.state_dict())
    batches = [(data.valid.x,)]
    assert plans[0].evaluate(batches) == plans[1].evaluate(batches)


def test_temperature_follows_the_steps(data):
    relaxation = Relaxation("relaxed_density", rate=0.1, floor=0.3, every=2)
    plan = build(data, **SIZES, relaxation=relaxation)
    fit(plan, data, FitSettings(max_epochs=5, batch_size=60, seed=0), **FLAGS)
    (relaxed,) = plan.elbo_objectives
    # set before each of the five steps, so last to that after four
    for program in (relaxed.model, relaxed.guide):
        assert temperature_of(program, data.train.x) == pytest.approx(math.exp(-0.4))
    plan.schedules[0](100)
    assert temperature_of(relaxed.guide, data.train.x) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "exact"}, "objective must be one of relaxed_density, .*; got 'exact'"),
        ({"temperature": 0.0}, "temperature must be a positive, finite number, got 0.0"),
        ({"floor": 0.0}, "floor must be a positive, finite number, got 0.0"),
        ({"rate": -1.0}, "rate must be a finite number of at least 0, got -1.0"),
        ({"temperature": 0.3, "rate": 0.1}, "floor must be at most temperature=0.3, which only falls, got 0.5; give"),
        ({"every": 0}, "every must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options(data, options, message):
    with pytest.raises(ValueError, match=message):
        build(data, **SIZES, relaxation=Relaxation(**options))


def test_command_line_and_resume(tmp_path):
    words = "--data digits --model.num_latents 2 --model.relaxation.rate 0.01 --model.relaxation.every 5 --seed 0"
    flags = "--trainer.accelerator cpu --trainer.max_epochs"
    out = ["--out", str(tmp_path / "run")]
    assert main(["fit", "categorical_vae", *words.split(), *flags.split(), "1", *out]) == 0
    assert main(["fit", "categorical_vae", *flags.split(), "2", *out, "--resume"]) == 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| Trace_ELBO " in report
    assert "the other metrics are of the discrete one" in report
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=False)["state_dict"]
    steps = next(value for name, value in state.items() if name.endswith("num_steps"))
    temperature = next(value for name, value in state.items() if name.endswith("temperature"))
    assert temperature == pytest.approx(math.exp(-0.01 * 5 * (int(steps) // 5)))
    assert int(steps) == 29  # fifteen steps an epoch, set before each


def test_a_ramp_rises_to_one_and_stays():
    ramp = linear_ramp(0.2, num_steps=10)
    assert [ramp(step) for step in (0, 4, 8, 100)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert linear_ramp(0.2, num_steps=0)(0) == 1.0
    with pytest.raises(ValueError, match=r"start must be a number in \[0, 1\], got 2"):
        linear_ramp(2, 10)
