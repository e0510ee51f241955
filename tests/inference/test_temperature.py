"""Schedules of the temperature: values, state, and a run of the fit engine."""

import copy
import math
import pickle

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_ext.datasets import digits
from pyro_ext.inference import RelaxReparam, TemperatureSchedule, TrainingPlan, relax
from pyro_ext.models.categorical_vae import build
from tests.inference.training.toys import assert_same, broken_off_and_resumed, run

OPTIONS = {"max_epochs": 2, "batch_size": 400}


def after(schedule, num_steps):
    for _ in range(num_steps):
        schedule.step()
    return float(schedule())


def test_constant():
    assert after(TemperatureSchedule.constant(0.7), 1000) == pytest.approx(0.7)


@pytest.mark.parametrize("num_steps", [0, 1, 10, 200])
def test_exponential_with_floor(num_steps):
    schedule = TemperatureSchedule.exponential(2.0, rate=0.02, floor=0.4)
    assert after(schedule, num_steps) == pytest.approx(max(0.4, 2 * math.exp(-0.02 * num_steps)))


@pytest.mark.parametrize(
    ("num_steps", "expected"), [(0, 1), (499, 1), (500, math.exp(-0.05)), (999, math.exp(-0.05)), (10**6, 0.5)]
)
def test_jang(num_steps, expected):
    schedule = TemperatureSchedule.jang(rate=1e-4, every=500)
    assert schedule.temperature_at(num_steps) == pytest.approx(expected)
    schedule.set_num_steps(num_steps)
    assert float(schedule()) == pytest.approx(expected)


def test_state_travels():
    schedule = TemperatureSchedule.exponential(1.0, 0.1, 0.5)
    after(schedule, 3)
    other = TemperatureSchedule.exponential(1.0, 0.1, 0.5)
    other.load_state_dict(schedule.state_dict())
    for same in (other, copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert same() == schedule()
        assert after(same, 1) == pytest.approx(math.exp(-0.4))
    assert schedule.to(torch.float64)().dtype == torch.float64


def test_a_graph_keeps_the_temperature_it_was_made_with():
    schedule = TemperatureSchedule.exponential(1.0, 0.5, 0.1)
    x = torch.tensor(2.0, requires_grad=True)
    loss = (x / schedule()).square()
    schedule.step()
    loss.backward()
    assert x.grad == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TemperatureSchedule(0.0), "initial must be a positive, finite number, got 0.0"),
        (lambda: TemperatureSchedule.constant(math.nan), "initial must be a positive, finite number, got nan"),
        (lambda: TemperatureSchedule(1.0, 0.1, -1.0), "floor must be a positive, finite number, got -1.0"),
        (lambda: TemperatureSchedule(1.0, 0.1, 2.0), "floor=2.0 exceeds initial=1.0"),
        (lambda: TemperatureSchedule(1.0, -0.1), "rate must be a finite number of at least 0, got -0.1"),
        (lambda: TemperatureSchedule.jang(every=0), "every must be an integer of at least 1, got 0"),
        (lambda: TemperatureSchedule(1.0).set_num_steps(-1), "num_steps must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_repr():
    assert repr(TemperatureSchedule(1.0, 0.1)) == "TemperatureSchedule(initial=1.0, rate=0.1, floor=0.5, every=1)"


def relaxed_vae():
    pyro.set_rng_seed(3)
    discrete = build(digits(), num_latents=3, num_categories=4, hidden=(16, 8)).elbo_objectives[0]
    schedule = TemperatureSchedule.exponential(1.0, rate=0.1, floor=0.5)
    reparam = RelaxReparam(schedule, "categorical", straight_through=True)
    model, guide = relax(discrete.model, reparam), relax(discrete.guide, reparam)
    return TrainingPlan.of(model, guide, Trace_ELBO(), schedules=[schedule.set_num_steps]), schedule


def test_temperature_follows_the_steps_also_after_a_resume(tmp_path):
    plan, schedule = relaxed_vae()
    whole = run(plan, digits(), **OPTIONS)
    steps = int(whole.history[-1]["step"])
    assert schedule.num_steps == steps - 1  # the number of steps before the last one
    assert float(schedule()) == pytest.approx(max(0.5, math.exp(-0.1 * (steps - 1))))
    resumed = []

    def again():
        plan, schedule = relaxed_vae()
        resumed.append(schedule)
        return plan

    assert_same(broken_off_and_resumed(again, tmp_path / "run", steps - 2, 1, digits(), **OPTIONS), whole)
    assert resumed[-1]() == schedule()
