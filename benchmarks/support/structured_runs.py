"""Runs of networks with discrete layers: which there are, how one is trained, and the rows of finished ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_ext.datasets import Splits
from pyro_ext.inference import (
    FitSettings,
    OptimizerSettings,
    TraceLeaveOneOut_ELBO,
    TraceUnorderedSet_ELBO,
    TrainingPlan,
    local_params,
)
from pyro_ext.models.structured_output import build, importance_bounds
from pyro_ext.models.toolkit import Relaxation
from pyro_ext.plotting import save
from support.rows import FinishedRuns, fit_or_continue

__all__ = ["METHODS", "NETS", "Budget", "Method", "Run", "finished_runs", "mean_of", "train"]

KEY = ("data", "net", "method", "m", "seed")

NETS: dict[str, dict[str, Any]] = {
    "lower half": {"task": "lower_half", "layers": 2},
    "density 2 non-linear": {"task": "density", "layers": 2, "nonlinear": True},
    "density 1 linear": {"task": "density", "layers": 1},
    "density 2 linear": {"task": "density", "layers": 2},
    "density 1 non-linear": {"task": "density", "layers": 1, "nonlinear": True},
}
"""Name of a network -> its options."""


@dataclass(frozen=True)
class Method:
    """How a network is trained.

    Args:
        numbers: the numbers m of samples there are runs for.
        plan: called with the data, the number m and the options of the network; returns the plan.
    """

    numbers: tuple[int, ...]
    plan: Callable[..., TrainingPlan]


def _concrete(data: Splits, m: int, task: str, **options: Any) -> TrainingPlan:
    """Return a plan with the temperatures of Maddison et al.: 2/3 of the guide, 1/2 of the density's model."""
    of_model = 0.5 if task == "density" else None
    relaxation = Relaxation("relaxed_density", False, temperature=2 / 3, model_temperature=of_model)
    return build(data, task=task, samples=m, relaxation=relaxation, **options)


def _straight_through(data: Splits, m: int, **options: Any) -> TrainingPlan:
    """Return a plan whose bound is that of the discrete model, as hard values enter it."""
    relaxation = Relaxation("relaxed_categorical", True, temperature=2 / 3)
    return build(data, samples=m, relaxation=relaxation, **options)


def _discrete(data: Splits, m: int, **options: Any) -> TrainingPlan:
    return build(data, samples=m, **options)


def _sets(elbo: Any) -> Callable[..., TrainingPlan]:
    """Return a plan of sample sets: of two layers each has the root of m, for each value of the layer before."""

    def plan(data: Splits, m: int, task: str, layers: int, **options: Any) -> TrainingPlan:
        size = m if layers == 1 else round(m**0.5)
        # with the divergence in closed form the distributions that model and guide share cancel exactly
        chosen = elbo(num_samples=size, max_plate_nesting=1, analytic_kl=task == "lower_half")
        return build(data, task=task, layers=layers, **options).with_elbo(chosen)

    return plan


METHODS = {
    "Concrete": Method((1, 5, 50), _concrete),
    "straight-through": Method((1, 5, 50), _straight_through),
    "VIMCO": Method((1, 5, 50), _discrete),
    "leave-one-out": Method((5, 50), _sets(TraceLeaveOneOut_ELBO)),
    "unordered set": Method((5, 50), _sets(TraceUnorderedSet_ELBO)),
}
"""Name of a method -> how it is trained; VIMCO of one sample is the score function with learned baselines."""


@dataclass(frozen=True)
class Budget:
    """What all runs on a data set share.

    Args:
        epochs: the number of epochs.
        lr: the learning rate of Adam.
        units: the width of the layers.
        points: the number of points of a learning curve.
        batch_size: the number of images per step.
    """

    epochs: int
    lr: float
    units: int
    points: int = 5
    batch_size: int = 100


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        data: the name of the data set.
        net: the name of the network.
        method: the name of the method.
        m: the number of samples in the objective.
        seed: the seed.
    """

    data: str
    net: str
    method: str
    m: int
    seed: int

    def key(self) -> tuple[str, ...]:
        """Return what identifies the run in a row."""
        return (self.data, self.net, self.method, str(self.m), str(self.seed))

    def __str__(self) -> str:
        return f"{self.data}, {self.net}, {self.method}, m = {self.m}, seed {self.seed}"


def finished_runs(path: Path) -> FinishedRuns:
    """Return the rows of finished runs in a CSV file."""
    return FinishedRuns(path, KEY)


def mean_of(finished: FinishedRuns, runs: list[Run], column: str = "nll") -> float | None:
    """Return the mean of a column over the finished runs that have it, as interrupted ones have no time; or None."""
    values = [row[column] for run in runs if (row := finished.find(run.key())) is not None]
    values = [value for value in values if not math.isnan(value)]
    return mean(values) if values else None


def train(run: Run, data: Splits, budget: Budget, out: Path | None = None, plots: Path | None = None) -> dict[str, Any]:
    """Train one network and return the rest of its row.

    Args:
        run: which.
        data: the data set; the bound is that of ``data.test``, or of ``data.valid`` where there is none.
        budget: how long, and how wide.
        out: a folder from which an interrupted run continues.
        plots: a folder for the plots of the model.
    """
    pyro.set_rng_seed(run.seed)
    plan = METHODS[run.method].plan(data, run.m, units=budget.units, evaluation_samples=20, **NETS[run.net])
    resumed = out is not None and (out / "last.ckpt").is_file()
    begin = time.process_time()
    plan = plan.with_optimizer(OptimizerSettings("Adam", lr=budget.lr))
    settings = FitSettings(max_epochs=budget.epochs, batch_size=budget.batch_size, seed=run.seed)
    every = max(1, budget.epochs // budget.points)
    result = fit_or_continue(plan, data, settings, out, accelerator="auto", check_val_every_n_epoch=every)
    seconds = float("nan") if resumed else time.process_time() - begin
    model, guide = (_discrete_module(module) for module in _programs(plan))
    held_out = data.valid if data.test is None else data.test
    samples = 100 if NETS[run.net]["task"] == "lower_half" else 1000
    nll, elbo = bound(model, guide, held_out.x, samples)
    curve = {row["epoch"]: row["neg_log_likelihood"] for row in result.history if "neg_log_likelihood" in row}
    if plots is not None:
        name = "-".join((run.data, *run.net.split(), *run.method.split(), str(run.m)))
        for plot, draw in plan.plots.items():
            with local_params():
                save(draw(), plots / f"{name}-{plot}.png")
    return {
        "epochs": budget.epochs,
        "steps": result.history[-1]["step"],
        "samples": samples,
        "nll": f"{nll:.3f}",
        "train_nll": f"{bound(model, guide, data.train.x[:100], samples)[0]:.3f}",
        "neg_elbo": f"{elbo:.3f}",
        "base_rate": f"{result.metrics['base_rate']:.3f}",
        "ms_per_step": f"{1000 * seconds / result.history[-1]['step']:.1f}",
        "curve": " ".join(f"{epoch:g}:{value:.3f}" for epoch, value in curve.items()),
    }


def _programs(plan: TrainingPlan) -> tuple[Any, Any]:
    objective = plan.elbo_objectives[0]
    return objective.model, objective.guide


def _discrete_module(program: Any) -> Any:
    """Return the discrete program inside a relaxed one."""
    return getattr(program, "program", program)


@torch.no_grad()
def bound(model: Any, guide: Any, x: Tensor, num_samples: int) -> tuple[float, float]:
    """Return the means over images of minus the bounds of ``num_samples`` and of one sample."""
    model.eval(), guide.eval()
    pyro.set_rng_seed(0)
    with local_params():
        parts = [importance_bounds(model, guide, num_samples, max(x.shape[-1], 200), batch) for batch in x.split(100)]
    bounds, elbos = (torch.cat(column).double().mean().item() for column in zip(*parts, strict=True))
    return bounds, elbos
