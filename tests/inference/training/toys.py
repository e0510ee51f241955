"""Small models and data for the fit engine, and stopping a run where one wants."""

from __future__ import annotations

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning.pytorch import Callback
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule

from pyro_ext.datasets import IndexedDataset, Splits
from pyro_ext.inference.training import (
    FitSettings,
    LossObjective,
    OptimizerSettings,
    Player,
    TrainingPlan,
    fit,
)

SIZE, WIDTH = 70, 5
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
EPOCHS, STEPS_PER_EPOCH = 3, 7
SETTINGS = {"max_epochs": EPOCHS, "batch_size": 10, "seed": 5}


class Model(PyroModule):
    """A linear autoencoder whose observation noise also uses Python's and NumPy's generators."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.decoder = torch.nn.Sequential(torch.nn.Linear(2, WIDTH), torch.nn.Dropout(0.2))

    def forward(self, x, y, index):
        with pyro.plate("data", self.size, subsample=index):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            scale = 1.0 + random.random() + np.random.rand()  # noqa: NPY002 - what pyro.set_rng_seed seeds
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.encoder = torch.nn.Linear(WIDTH, 4)

    def forward(self, x, y, index):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", self.size, subsample=index):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def splits(size: int = SIZE, test: bool = False) -> Splits:
    x = torch.randn(size + 20, WIDTH, generator=torch.Generator().manual_seed(7))
    held_out = IndexedDataset(x[size:])
    return Splits("toy", IndexedDataset(x[:size]), held_out, held_out if test else None)


OPTIMIZER = OptimizerSettings("Adam", lr=0.01)


def autoencoder(optimizer: OptimizerSettings = OPTIMIZER) -> TrainingPlan:
    """Return the model, its guide and a noisy evaluation."""
    pyro.set_rng_seed(3)
    model, guide = Model(SIZE), Guide(SIZE)
    elbo = Trace_ELBO()

    def evaluate(loader):
        losses = [elbo.differentiable_loss(model, guide, *batch) for batch in loader]
        return {"neg_elbo": torch.stack(losses).mean().item() / SIZE, "noise": torch.rand(()).item()}

    return TrainingPlan.of(model, guide, elbo, optimizer=optimizer, evaluate=evaluate, headline="neg_elbo")


def critic_loss(x, y, index, critic, encoder):
    return critic(encoder(x)).square().mean()


def with_critic(every: int = 1, optimizer: OptimizerSettings = OPTIMIZER) -> TrainingPlan:
    """Return the autoencoder with a second player: a critic of its codes."""
    plan = autoencoder(optimizer)
    (player,) = plan.players
    critic = torch.nn.Linear(4, 1)
    loss = LossObjective(critic_loss, critic=critic, encoder=player.objective.guide.encoder)
    plan.players.append(Player("critic", loss, critic.parameters(), OptimizerSettings("SGD", lr=0.1), every))
    return plan


def lazy() -> TrainingPlan:
    """Return a model with global latents and an autoguide that has no parameters before its first call."""

    def model(x, y, index):
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(WIDTH), 10.0).to_event(1))
        with pyro.plate("data", SIZE, subsample=index):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return TrainingPlan.of(model, AutoNormal(model), Trace_ELBO(), optimizer=OPTIMIZER)


def run(plan: TrainingPlan, data, **options):
    """Fit with the settings and flags among the options, quietly and on the CPU."""
    names = FitSettings.__dataclass_fields__
    settings = {name: options.pop(name) for name in list(options) if name in names}
    return fit(plan, data, FitSettings(**SETTINGS | settings), **QUIET | options)


class StopError(Exception):
    """As abrupt as a crash."""


class StopAfter(Callback):
    """Breaks off a run after so many steps, before any checkpoint that would be due then."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.steps == self.step:
            raise StopError


def parameters(result) -> dict[str, torch.Tensor]:
    players = result.plan.players
    named = [(f"{player.name}.{name}", p) for player in players for name, p in player.objective.named_parameters()]
    return {name: value.detach().clone() for name, value in named}


def assert_same(resumed, whole):
    assert resumed.metrics == whole.metrics
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    expected = parameters(whole)
    assert all(torch.equal(value, expected[name]) for name, value in parameters(resumed).items())


def broken_off_and_resumed(build, out, step, every=None, data=None, **options):
    """Break off a run before a step, and resume it in other random states, as a new process would."""
    data = data or splits()
    flags = {"out": out, "checkpoint_every_n_steps": every} | options
    with pytest.raises(StopError):
        run(build(), data, **flags | {"callbacks": [StopAfter(step)]})
    pyro.set_rng_seed(99)
    return run(build(), data, **flags, resume=True)


def without_seconds(history) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]
