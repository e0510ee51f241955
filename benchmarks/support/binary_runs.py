"""The autoencoder with 200 bits that estimators for binary sites are compared on: its networks, methods and runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.datasets import Batch, IndexedDataset, Splits
from pyro_ext.inference import (
    ELBOObjective,
    FitSettings,
    OptimizerSettings,
    TraceARMS_ELBO,
    TraceDoubleCV_ELBO,
    TraceLeaveOneOut_ELBO,
    TraceRODEO_ELBO,
    TraceUnorderedSet_ELBO,
    TrainingPlan,
)
from pyro_ext.models.toolkit import data_plate, mean_metrics, perceptron
from pyro_ext.utils.random_state import mixed_seed
from support.rows import fit_or_continue, metrics_so_far

__all__ = [
    "BATCH",
    "METHODS",
    "FixedLogits",
    "Method",
    "adam",
    "autoencoder",
    "batches",
    "curve",
    "label",
    "objective",
    "run_folder",
    "train",
    "train_by_steps",
]

BATCH = 100
LR = 1e-3
WIDTH = 200


@dataclass(frozen=True)
class Method:
    """An estimator as it is used here.

    Args:
        make: called with K, the number of evaluations of the model; returns the ELBO.
        numbers: the numbers K there are runs for.
        learns: for how many steps the ELBO is to learn at weights that stay as they are before it is measured.
    """

    make: Callable[[int], ELBO]
    numbers: tuple[int, ...] = (2, 3, 4)
    learns: int = 0


METHODS = {
    "leave-one-out": Method(lambda k: TraceLeaveOneOut_ELBO(k, max_plate_nesting=1)),
    "leave-one-out + linear": Method(
        lambda k: TraceLeaveOneOut_ELBO(k, max_plate_nesting=1, control_variate="linear"), (4,), 1500
    ),
    "unordered set": Method(lambda k: TraceUnorderedSet_ELBO(k, max_plate_nesting=1)),
    "ARMS": Method(lambda k: TraceARMS_ELBO(k, max_plate_nesting=1)),
    "ARMS + linear": Method(lambda k: TraceARMS_ELBO(k, max_plate_nesting=1, control_variate="linear"), learns=1500),
    "double CV": Method(lambda k: TraceDoubleCV_ELBO(k, max_plate_nesting=1), learns=300),
    "RODEO": Method(lambda k: TraceRODEO_ELBO(k, max_plate_nesting=1), (2,)),
}
"""Name of a method -> how it is made; ARMS with K = 2 is DisARM, and RODEO learns beside the training of weights."""


def label(method: str, k: int) -> str:
    """Return what a method with K evaluations is called.

    >>> label("ARMS + linear", 2), label("RODEO", 2)
    ('DisARM + linear, K = 2', 'RODEO, K = 2')
    """
    return f"{method.replace('ARMS', 'DisARM') if k == 2 else method}, K = {k}"


class Decoder(PyroModule):
    """Uniform prior of the bits, and pixels given them.

    Args:
        size: the number N of training images.
        num_pixels: the number of pixels of an image.
        width: the number of bits, and of units in each of two hidden layers.
    """

    prior_logits: Tensor

    def __init__(self, size: int, num_pixels: int, width: int = WIDTH) -> None:
        super().__init__()
        self.size = size
        self.decoder = perceptron(width, width, width, num_pixels, activation=_leaky)
        self.register_buffer("prior_logits", torch.zeros(width))

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Sample the bits and observe ``x``, ``(B, num_pixels)``."""
        with data_plate(self.size, x, index):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior_logits).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Encoder(PyroModule):
    """Bits given pixels.

    Args:
        size: the number N of training images.
        num_pixels: the number of pixels of an image.
        width: the number of bits, and of units in each of two hidden layers.
    """

    def __init__(self, size: int, num_pixels: int, width: int = WIDTH) -> None:
        super().__init__()
        self.size = size
        self.encoder = perceptron(num_pixels, width, width, width, activation=_leaky)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Sample the bits of ``x``, ``(B, num_pixels)``."""
        with data_plate(self.size, x, index):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1))


class FixedLogits(PyroModule):
    """An encoder whose parameters are the logits of a batch themselves: its gradient is the gradient in the logits.

    Args:
        encoder: what computes the logits.
        x: the batch, ``(B, num_pixels)``.
    """

    def __init__(self, encoder: Encoder, x: Tensor) -> None:
        super().__init__()
        self.size = encoder.size
        self.logits = nn.Parameter(encoder.encoder(x).detach())

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Sample the bits of the batch."""
        with data_plate(self.size, x, index):
            pyro.sample("z", dist.Bernoulli(logits=self.logits).to_event(1))


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.3)


def autoencoder(data: Splits, seed: int, width: int = WIDTH) -> tuple[Decoder, Encoder]:
    """Return model and guide at seeded initial weights."""
    pyro.set_rng_seed(seed)
    sizes = (len(data.train), data.train.x.shape[-1], width)
    return Decoder(*sizes), Encoder(*sizes)


def objective(model: Decoder, guide: Encoder, elbo: ELBO) -> ELBOObjective:
    """Return the loss per image."""
    return ELBOObjective(model, guide, elbo, size=model.size)


def batches(data: IndexedDataset, seed: int, steps: int) -> Iterator[Batch]:
    """Yield shuffled batches of 100 images, drawn anew in each epoch where the data are."""
    epoch = 0
    while steps > 0:
        if hasattr(data, "set_epoch"):
            data.set_epoch(epoch)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(mixed_seed(seed, epoch)))
        for rows in order.split(BATCH)[:steps]:
            yield data.__getitems__(rows.tolist())
        steps -= -(-len(data) // BATCH)
        epoch += 1


def train_by_steps(
    model: Decoder,
    guide: Encoder,
    elbos: Sequence[ELBO],
    data: IndexedDataset,
    steps: int,
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Train in place by the first ELBO, without checkpoints; the others learn from the same batches, and only that.

    Args:
        model: the model.
        guide: the guide.
        elbos: the ELBOs.
        data: the training images.
        steps: the number of steps.
        seed: the seed of batches and noise.
        optimizer: what moves the weights; without it they stay as they are, and the ELBOs learn.
    """
    parts = [objective(model, guide, elbo) for elbo in elbos]
    pyro.set_rng_seed(seed)
    for batch in batches(data, seed, steps):
        for part in reversed(parts):  # the gradient of the first one is what remains
            part.zero_grad(set_to_none=True)
            part(*batch).total.backward()
            part.after_step()
        if optimizer is not None:
            optimizer.step()


def adam(model: Decoder, guide: Encoder) -> torch.optim.Optimizer:
    """Return the optimiser of all runs."""
    return torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=LR)


def run_folder(work: Path, method: str, k: int, seed: int) -> Path:
    """Return the folder of a run."""
    return work / "curves" / f"{method.replace(' + ', '-').replace(' ', '-')}-{k}-{seed}"


def train(data: Splits, method: str, k: int, seed: int, steps: int, work: Path, width: int = WIDTH) -> dict[str, Any]:
    """Train by one method, or go on where an earlier attempt was interrupted, and return the row of the run.

    Every two epochs, which are 1,000 steps, the bound is evaluated on all training images, drawn once and with one
    code for each. There is a checkpoint after every epoch.

    Args:
        data: the images.
        method: a name in :data:`METHODS`.
        k: the number of evaluations of the model per image and step.
        seed: the seed of weights, batches and noise.
        steps: the number of steps.
        work: the folder for checkpoints.
        width: the number of bits.
    """
    model, guide = autoencoder(data, seed, width)
    evaluate = mean_metrics(model, lambda x, *_: {"neg_elbo": _negative_bound(model, guide, x)})
    plan = TrainingPlan.of(
        model,
        guide,
        METHODS[method].make(k),
        optimizer=OptimizerSettings("Adam", lr=LR),
        evaluate=evaluate,
        headline="neg_elbo",
    )
    epochs = -(-steps // -(-len(data.train) // BATCH))
    folder = run_folder(work, method, k, seed)
    held = Splits(data.name, data.train, IndexedDataset(data.train.x), image_shape=data.image_shape)
    settings = FitSettings(max_epochs=epochs, batch_size=BATCH, seed=seed)
    result = fit_or_continue(plan, held, settings, folder, check_val_every_n_epoch=2)
    held_out = math.nan
    if data.valid is not None:
        held_out = evaluate([data.valid.__getitems__(range(len(data.valid)))])["neg_elbo"]  # type: ignore[arg-type]
    return {
        "neg_elbo": result.metrics["neg_elbo"],
        "valid_neg_elbo": held_out,
        "wall_minutes": sum(row["seconds"] for row in result.history) / 60,
        "curve": [[row["step"], round(row["neg_elbo"], 4)] for row in result.history if "neg_elbo" in row],
    }


def _negative_bound(model: Decoder, guide: Encoder, x: Tensor) -> Tensor:
    """Return minus the bound of each image, by one code each; the divergence from the prior is exact."""
    logits = guide.encoder(x)
    z = torch.bernoulli(logits.sigmoid())
    pixels = nn.functional.binary_cross_entropy_with_logits(model.decoder(z), x, reduction="none").sum(-1)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=logits),
        torch.distributions.Bernoulli(logits=model.prior_logits.expand_as(logits)),
    )
    return pixels + divergence.sum(-1)


def curve(work: Path, row: Mapping[str, Any] | None, method: str, k: int, seed: int) -> list[tuple[float, float]]:
    """Return steps and minus the training bound of a run, or of what there is of an unfinished one."""
    if row is not None:
        return [(float(step), float(value)) for step, value in row["curve"]]
    history = metrics_so_far(run_folder(work, method, k, seed))
    return [(each["step"], each["neg_elbo"]) for each in history if "neg_elbo" in each]
