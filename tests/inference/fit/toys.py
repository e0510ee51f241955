"""Small models and data for the fit engine, and stopping a run where one wants."""

from __future__ import annotations

import random

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from lightning.pytorch import Callback
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule

from pyro_ext.datasets import IndexedDataset, Splits
from pyro_ext.inference.fit import Built, ExtraLoss

SIZE, WIDTH = 70, 5
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


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


def autoencoder(extra: bool = False) -> Built:
    """Return the model, its guide and a noisy evaluation; with ``extra``, a critic of the codes too."""
    pyro.set_rng_seed(3)
    model, guide = Model(SIZE), Guide(SIZE)
    elbo = Trace_ELBO()

    def evaluate(loader):
        losses = [elbo.differentiable_loss(model, guide, *batch) for batch in loader]
        return {"neg_elbo": torch.stack(losses).mean().item() / SIZE, "noise": torch.rand(()).item()}

    built = Built(model, guide, elbo, evaluate)
    if extra:
        critic = torch.nn.Linear(4, 1)
        built.extra_losses = [
            ExtraLoss("critic", lambda x, y, index: critic(guide.encoder(x)).square().mean(), critic.parameters(), 0.1)
        ]
    return built


def lazy() -> Built:
    """Return a model with global latents and an autoguide that has no parameters before its first call."""

    def model(x, y, index):
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(WIDTH), 10.0).to_event(1))
        with pyro.plate("data", SIZE, subsample=index):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return Built(model, AutoNormal(model), Trace_ELBO())


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
    return {name: value.detach().clone() for name, value in result.elbo.named_parameters()}


def without_seconds(history) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]
