"""Runs of the categorical autoencoder of Kool et al. on MNIST, and the variance of gradients along one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from pyro.infer import ELBO, Trace_ELBO

from pyro_ext.datasets import Splits
from pyro_ext.inference import (
    FitSettings,
    OptimizerSettings,
    TraceLeaveOneOut_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
    TrainingPlan,
)
from pyro_ext.inference.compare import Subject, compare_gradients
from pyro_ext.models import categorical_vae
from pyro_ext.models.toolkit import Relaxation
from pyro_ext.utils.files import replacing
from support.rows import fit_or_continue, metrics_so_far

__all__ = ["COMPARED", "METHODS", "Method", "best_average", "curve", "kept_epochs", "run_folder", "train", "variances"]

BATCH = 200
K = 4
KEPT = (1, 5, 10, 20, 40, 60, 80, 100, 120)
"""Epochs of the run of leave-one-out whose weights are kept."""


@dataclass(frozen=True)
class Method:
    """How the autoencoder is trained.

    Args:
        elbo: makes the ELBO; None for straight-through samples.
        epochs: the number of epochs.
        lr: the learning rate of Adam, that of the paper.
    """

    elbo: Callable[[], ELBO] | None
    epochs: int
    lr: float = 1e-3


METHODS = {
    "leave-one-out": Method(lambda: TraceLeaveOneOut_ELBO(K, max_plate_nesting=1), 120),
    "unordered set": Method(lambda: TraceUnorderedSet_ELBO(K, max_plate_nesting=1), 120),
    "Trace_ELBO": Method(lambda: Trace_ELBO(num_particles=K, vectorize_particles=True, max_plate_nesting=1), 60),
    "straight-through Gumbel": Method(None, 60, lr=1e-4),
}
"""Name of a method -> how the autoencoder is trained."""

COMPARED: dict[str, Callable[[], ELBO]] = {
    **{name: method.elbo for name, method in METHODS.items() if method.elbo is not None},
    "unordered set, no baseline": lambda: TraceUnorderedSet_ELBO(K, baseline=False, max_plate_nesting=1),
    "sum and sample": lambda: TraceSumAndSample_ELBO(K, max_plate_nesting=1),
}
"""Name of an estimator -> its ELBO, for the variance along the run of leave-one-out."""


class KeepWeights(Callback):
    """Keeps the weights of some epochs as files.

    Args:
        plan: what is trained.
        epochs: after which epochs.
        folder: where.
    """

    def __init__(self, plan: TrainingPlan, epochs: Sequence[int], folder: Path) -> None:
        self.plan, self.epochs, self.folder = plan, epochs, folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights if they are to be kept."""
        epoch = trainer.current_epoch + 1
        if epoch in self.epochs:
            objective = self.plan.elbo_objective("this benchmark")
            with replacing(self.folder / f"weights-{epoch}.pt") as partial:
                torch.save([objective.model.state_dict(), objective.guide.state_dict()], partial)


def run_folder(work: Path, method: str, seed: int) -> Path:
    """Return the folder of a run."""
    return work / f"{method.replace(' ', '-')}-{seed}"


def _plan(data: Splits, method: Method, seed: int) -> TrainingPlan:
    pyro.set_rng_seed(seed)
    relaxation = Relaxation() if method.elbo is None else None
    plan = categorical_vae.build(data, num_latents=20, evaluation_samples=4, relaxation=relaxation)
    if method.elbo is not None:
        plan = plan.with_elbo(method.elbo())
    return plan.with_optimizer(OptimizerSettings("Adam", lr=method.lr))


def train(data: Splits, name: str, seed: int, work: Path, epochs: int | None = None) -> dict[str, Any]:
    """Train by one method, or go on where an earlier attempt was interrupted, and return the row of the run.

    Args:
        data: the images.
        name: a name in :data:`METHODS`.
        seed: the seed.
        work: the folder for checkpoints.
        epochs: the number of epochs; that of the method if None.
    """
    plan = _plan(data, METHODS[name], seed)
    epochs = METHODS[name].epochs if epochs is None else epochs
    folder = run_folder(work, name, seed)
    keep = [KeepWeights(plan, (*KEPT, epochs), folder)] if name == "leave-one-out" else []
    settings = FitSettings(max_epochs=epochs, batch_size=BATCH, seed=seed)
    fit_or_continue(plan, data, settings, folder, check_val_every_n_epoch=2, callbacks=keep)
    history = metrics_so_far(folder)
    last = history[-1]
    return {
        "epochs": epochs,
        "train": best_average([row["train_loss"] for row in history], 10),
        "valid": best_average([row["neg_elbo"] for row in history if "neg_elbo" in row], 5),
        "train_last": last["train_loss"],
        "valid_last": last.get("neg_elbo", math.nan),
        "kl": last.get("kl", math.nan),
        "wall_minutes": sum(row["seconds"] for row in history) / 60,
        "curve": _curve(history),
    }


def best_average(values: Sequence[float], number: int) -> float:
    """Return the smallest mean of so many successive values, of all where there are fewer.

    >>> best_average([5.0, 3.0, 1.0, 4.0], 2)
    2.0
    """
    number = min(number, len(values))
    return min(sum(values[at : at + number]) / number for at in range(len(values) - number + 1))


def _curve(history: Sequence[dict[str, float]]) -> list[list[float]]:
    return [[row["epoch"], round(row["train_loss"], 3), round(row["neg_elbo"], 3)] for row in history if "kl" in row]


def curve(work: Path, row: dict[str, Any] | None, method: str, seed: int) -> list[list[float]]:
    """Return epoch, training and held-out bound of a run, or of what there is of an unfinished one."""
    return _curve(metrics_so_far(run_folder(work, method, seed))) if row is None else row["curve"]


def kept_epochs(work: Path, seed: int) -> list[int]:
    """Return the epochs of the run of leave-one-out whose weights there are."""
    folder = run_folder(work, "leave-one-out", seed)
    return sorted(int(path.stem.partition("-")[2]) for path in folder.glob("weights-*.pt"))


def variances(data: Splits, epoch: int, seed: int, work: Path, repeats: int) -> dict[str, list[float]]:
    """Return what is measured of each estimator at the weights after some epoch of the run of leave-one-out.

    Args:
        data: the images.
        epoch: the epoch.
        seed: the seed of the run.
        work: the folder of the runs.
        repeats: the number of gradients of each estimator.

    Returns:
        The log-variances of the encoder's and of the decoder's gradient, each with its standard error, then the
        median milliseconds of a gradient, for each estimator.
    """
    objective = _plan(data, METHODS["leave-one-out"], seed).elbo_objective("this benchmark")
    folder = run_folder(work, "leave-one-out", seed)
    states = torch.load(folder / f"weights-{epoch}.pt", weights_only=True)
    for module, state in zip((objective.model, objective.guide), states, strict=True):
        module.load_state_dict(state)
    batch = data.train.__getitems__(range(BATCH))
    subject = Subject(objective.model, objective.guide, batch, size=len(data.train))
    figures = compare_gradients({name: make() for name, make in COMPARED.items()}, subject, repeats=repeats)
    return {
        name: [
            *(x for group in ("encoder", "decoder") for x in (of.log_variance[group], of.log_variance_error[group])),
            of.milliseconds,
        ]
        for name, of in figures.items()
    }
