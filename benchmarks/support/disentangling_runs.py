"""Training the disentangling autoencoder and scoring its codes; one call is one row of the benchmark."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_ext.datasets import IndexedDataset, Splits, SpriteImages, load, sprites
from pyro_ext.datasets.sprites import FACTORS
from pyro_ext.inference import TrainingPlan
from pyro_ext.models.disentangling import Guide, build, codes_of, dci, mutual_information_gap, probe_accuracy
from pyro_ext.plotting import save

__all__ = ["METHODS", "Budget", "digits_run", "mixed_digits", "pixels_run", "sprites_run"]

METHODS: Mapping[str, Mapping[str, Any]] = {
    "ELBO alone": {"swap_weight": 0.0, "adversarial_weight": 0.0},
    "swaps": {"adversarial_weight": 0.0},
    "swaps, adversary": {},
    "swaps, adversary of pairs": {"discriminator": "pair"},
    "swaps, adversary of the paper": {"mismatched_weight": 0.0},
}
"""Name of a method -> options of ``build``."""

_BATCH = 100


@dataclass(frozen=True)
class Budget:
    """The epochs of a run, and options that all methods share.

    Args:
        epochs: the number of epochs, in batches of 100.
        options: arguments of ``build``.
        data: arguments of the loader of the data.
    """

    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = {**self.data, **self.options}
        return ", ".join([f"{self.epochs} epochs", *(f"{name} {value}" for name, value in settings.items())])


def mixed_digits(seed: int, num_valid: int = 297) -> Splits:
    """Return the bundled digits in shades of grey, in an order of the seed: their writers come one after another."""
    data = load("digits", binarize=None)
    assert data.valid is not None
    x, y = (torch.cat([getattr(part, name) for part in (data.train, data.valid)]) for name in ("x", "y"))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, valid = order[num_valid:], order[:num_valid]
    parts = (IndexedDataset(x[rows], y[rows]) for rows in (train, valid))
    return Splits("digits", *parts, image_shape=data.image_shape)


def digits_run(seed: int, method: str, budget: Budget, plots: Path | None = None) -> dict[str, float]:
    """Train on digits and return the held-out metrics.

    Args:
        seed: the seed of the split, the weights and the order of batches.
        method: a method in :data:`METHODS`.
        budget: epochs and options.
        plots: the folder for plots; none are drawn if None.
    """
    data = mixed_digits(seed)
    metrics, _, plan = _train(data, seed, method, budget)
    if plots is not None:
        _draw(plan, plots)
    return metrics


def pixels_run(seed: int) -> dict[str, float]:
    """Return the accuracy in per cent, as ``value``, of the probe on pixels instead of codes, by a seed's split."""
    data = mixed_digits(seed)
    assert data.valid is not None
    return {"value": probe_accuracy(data.train.x, data.train.y, data.valid.x, data.valid.y, seed=seed)}


def sprites_run(seed: int, method: str, budget: Budget, plots: Path | None = None) -> dict[str, float]:
    """Train on sprites with their shape as the class, and return metrics, DCI and gaps of s and of the mean of z.

    Args:
        seed: the seed of the choice of sprites, the weights and the order of batches.
        method: a method in :data:`METHODS`.
        budget: epochs, options and arguments of ``sprites``.
        plots: the folder for plots; none are drawn if None.
    """
    data: SpriteImages = sprites(seed=seed, **budget.data)
    assert data.valid is not None
    metrics, guide, plan = _train(data, seed, method, budget)
    if plots is not None:
        _draw(plan, plots)
    codes, factors = codes_of(guide, data.valid.x), data.factors["valid"]
    for name, features in {"s": codes.s, "z": codes.z_loc}.items():
        scores, gaps = dci(features, factors), mutual_information_gap(features, factors)
        metrics[f"{name} disentanglement"] = scores.disentanglement
        for at, factor in enumerate(FACTORS):
            metrics[f"{name} {factor} completeness"] = float(scores.completeness[at])
            metrics[f"{name} {factor} informativeness"] = float(scores.informativeness[at])
            metrics[f"{name} {factor} gap"] = float(gaps[at])
    return metrics


def _train(data: Splits, seed: int, method: str, budget: Budget) -> tuple[dict[str, float], Guide, TrainingPlan]:
    """Train with a plain loop: on networks this small, the engine of ``fit`` would take as long as the model."""
    pyro.set_rng_seed(seed)
    plan = build(data, **{**budget.options, **METHODS[method]})
    optimizers = [player.optimizer.make(player.named_parameters().items()) for player in plan.players]
    began = time.process_time()
    with pyro.validation_enabled(False):
        for _ in range(budget.epochs):
            for index in torch.randperm(len(data.train)).split(_BATCH):
                batch = data.train.__getitems__(index)
                for player, optimizer in zip(plan.players, optimizers, strict=True):
                    optimizer.zero_grad()
                    player.objective(*batch).total.backward()
                    optimizer.step()
    seconds = time.process_time() - began
    assert plan.evaluate is not None
    assert data.valid is not None
    metrics = dict(plan.evaluate([data.valid.__getitems__(range(len(data.valid)))]))
    return metrics | {"seconds": seconds}, plan.elbo_objective("this benchmark").guide, plan


def _draw(plan: TrainingPlan, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in plan.plots.items():
        save(draw(), folder / f"{name}.png")
