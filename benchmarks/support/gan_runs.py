"""Training the improved GAN and its discriminator alone; one call is one row of the benchmark."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_ext.datasets import IndexedDataset, Splits, keep_few_labels, load
from pyro_ext.inference import FitSettings, local_params
from pyro_ext.models.gan import build
from pyro_ext.plotting import save
from support.disentangling_runs import mixed_digits
from support.rows import fit_or_continue

__all__ = ["METHODS", "PARTS", "Part", "run"]

METHODS: Mapping[str, Mapping[str, Any]] = {
    "supervised": {"method": "supervised"},
    "feature matching": {"method": "feature_matching"},
    "standard": {"method": "standard"},
    "minibatch discrimination": {"method": "minibatch_discrimination"},
}
"""Name of a method -> options of ``build``."""

_BATCH = 100


def mnist_split(seed: int) -> Splits:
    """Return MNIST's 8,000 and 2,000 test images."""
    return load("mnist", protocol="split", binarize=None)


def mnist_full(seed: int) -> Splits:
    """Return all 60,000 training images of MNIST, and its 10,000 test images as held-out ones.

    There is no part to validate on: nothing is chosen by held-out images.
    """
    data = load("mnist", protocol="full", binarize=None)
    x, y = (torch.cat([getattr(part, name) for part in (data.train, data.valid)]) for name in ("x", "y"))
    return Splits("mnist", IndexedDataset(x, y), data.test, image_shape=data.image_shape)


def mnist_validation() -> IndexedDataset:
    """Return 10,000 images of MNIST's training files, none of which is in ``mnist_split``."""
    images: IndexedDataset = load("mnist", protocol="full", binarize=None).valid
    return images


@dataclass(frozen=True)
class Part:
    """A data set, how many labels are kept, and how long to train.

    Args:
        data: returns the data of a seed.
        num_labels: the number of labels, equally many of each class.
        epochs: the number of epochs, in batches of 100 unlabelled and 100 labelled images.
        seeds: the number of seeds.
        methods: those that are compared.
        options: arguments of ``build`` that all methods share.
        every: the number of epochs from one evaluation to the next.
        further: further images to judge by.
    """

    data: Callable[[int], Splits]
    num_labels: int
    epochs: int
    seeds: int
    methods: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    every: int = 10
    further: Callable[[], IndexedDataset] | None = None


PARTS = {
    "digits": Part(mixed_digits, 50, 100, 5, tuple(METHODS), {"network": "digits"}, 50),
    "split": Part(
        mnist_split,
        100,
        50,
        3,
        ("supervised", "feature matching", "standard"),
        {"network": "mnist_small", "lr_constant": 0.0},
        10,
        mnist_validation,
    ),
    "full": Part(mnist_full, 100, 60, 2, ("feature matching",), {"network": "mnist"}, 5),
}


def run(name: str, part: Part, method: str, seed: int, work: Path) -> dict[str, Any]:
    """Train once, or go on where an earlier attempt was interrupted, and return the held-out metrics.

    Args:
        name: what the part is called.
        part: data and budget.
        method: a name in :data:`METHODS`.
        seed: the seed of the labels, of the weights and of the noise.
        work: the folder for checkpoints and plots.
    """
    data = keep_few_labels(part.data(seed), part.num_labels, _BATCH, seed, unlabelled="all")
    pyro.set_rng_seed(seed)
    plan = build(data, epochs=part.epochs, batch_size=_BATCH, **part.options, **METHODS[method])
    settings = FitSettings(max_epochs=part.epochs, batch_size=_BATCH, seed=seed)
    folder = work / name / f"{method.replace(' ', '-')}-{seed}"
    start = time.process_time()
    result = fit_or_continue(plan, data, settings, folder, check_val_every_n_epoch=part.every)
    seconds = time.process_time() - start
    assert len(result.history) == part.epochs
    for plot, draw in plan.plots.items():
        with local_params():
            save(draw(), folder / f"{plot}.png")
    errors = {"error": result.metrics["error"], "error_last": result.metrics["error_last"]}
    if part.further is not None:
        further, own = part.further(), len(data.valid)
        assert plan.evaluate is not None
        error = plan.evaluate([further.__getitems__(range(len(further)))])["error"]  # type: ignore[arg-type]
        errors["error_of_more"] = (error * len(further) + errors["error"] * own) / (len(further) + own)
    of_samples = ("spread", "sample_classes", "belief_real", "belief_generated")
    return {
        **errors,
        "held_out": len(data.valid),
        **{key: result.metrics.get(key, math.nan) for key in of_samples},
        "curve": [[row["epoch"], round(row["error"], 3)] for row in result.history if "error" in row],
        "minutes": sum(row["seconds"] for row in result.history) / 60,
        "cpu_seconds_of_last_attempt": seconds,
    }
