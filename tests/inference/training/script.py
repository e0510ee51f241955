"""A program that fits a toy: ``python -m tests.inference.training.script '{"toy": ..., fit's arguments}'``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from lightning.pytorch import Callback
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam

from pyro_ext.inference.training import LossObjective, OptimizerSettings, Player, TrainingPlan
from tests.inference.training.toys import OPTIMIZER, SIZE, WIDTH, autoencoder, parameters, run, splits

NOISE = torch.randn(SIZE, 2, generator=torch.Generator().manual_seed(11))


class FixedNoiseGuide(PyroModule):
    """The noise of a data point is looked up, so it is the same in whichever process the point lands."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(WIDTH, 2)
        self.scale = PyroParam(torch.full((2,), 0.5), constraint=dist.constraints.positive)

    def forward(self, x, y, index):
        loc = self.encoder(x)
        z = loc + self.scale * NOISE[index].to(x.dtype)
        log_q = dist.Normal(loc, self.scale).log_prob(z).sum(-1)
        with pyro.plate("data", SIZE, subsample=index):
            pyro.sample("z", dist.Delta(z, log_density=log_q, event_dim=1))


class FixedScaleModel(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = torch.nn.Linear(2, WIDTH)

    def forward(self, x, y, index):
        with pyro.plate("data", SIZE, subsample=index):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


def fixed_noise() -> TrainingPlan:
    pyro.set_rng_seed(3)
    return TrainingPlan.of(FixedScaleModel(), FixedNoiseGuide(), Trace_ELBO(), optimizer=OPTIMIZER)


def discriminator_loss(x, y, index, generator, discriminator):
    real, fake = discriminator(x), discriminator(generator(NOISE[index]).detach())
    return (torch.nn.functional.softplus(-real) + torch.nn.functional.softplus(fake)).mean()


def generator_loss(x, y, index, generator, discriminator):
    return torch.nn.functional.softplus(-discriminator(generator(NOISE[index]))).mean()


def gan() -> TrainingPlan:
    """A generative adversarial network: two players, different turns, own optimisers, noise given with the data."""
    pyro.set_rng_seed(3)
    nets = {
        "generator": torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, WIDTH)),
        "discriminator": torch.nn.Sequential(torch.nn.Linear(WIDTH, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)),
    }
    return TrainingPlan(
        [
            Player(
                "discriminator",
                LossObjective(discriminator_loss, **nets),
                nets["discriminator"].parameters(),
                OptimizerSettings("Adam", lr=0.01, betas=(0.5, 0.9)),
            ),
            Player(
                "generator",
                LossObjective(generator_loss, **nets),
                nets["generator"].parameters(),
                OptimizerSettings("RMSprop", lr=0.005),
                every=2,
            ),
        ]
    )


TOYS = {"autoencoder": autoencoder, "fixed_noise": fixed_noise, "gan": gan}


class Announce(Callback):
    """Prints each step, and takes its time over it."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        print(f"step {pl_module.steps}", flush=True)
        time.sleep(0.02)


class NoteNoise(Callback):
    """Writes each process's first draw, to be compared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer, pl_module):
        with torch.random.fork_rng():
            self.folder.joinpath(f"noise{trainer.global_rank}").write_text(str(torch.rand(()).item()))


def main(options: dict) -> None:
    toy, report, announce = options.pop("toy"), options.pop("report", None), options.pop("announce", False)
    callbacks = ([Announce()] if announce else []) + ([NoteNoise(Path(report).parent)] if report else [])
    result = run(TOYS[toy](), splits(), **options, callbacks=callbacks)
    if report and not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
        values = {name: value.tolist() for name, value in parameters(result).items()}
        Path(report).write_text(json.dumps({"parameters": values, "history": result.history}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(json.loads(sys.argv[1]))
