"""Runs of the Deep Rendering Mixture Model; the result of each is saved in a file once it is complete."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_ext.datasets import Splits
from pyro_ext.inference import FitSettings, OptimizerSettings, SchedulerSettings, fit
from pyro_ext.models.drmm import DRMM, Layer, build, estimate_switch_distribution
from pyro_ext.models.drmm.clusters import match_clusters, start_classes
from pyro_ext.models.drmm.em import hard_e_step, hard_em
from pyro_ext.models.drmm.objective import SemiSupervisedObjective

__all__ = ["LOSSES", "Budget", "cluster", "k_means", "recognised", "train", "trained"]

Metrics = dict[str, Any]

OFF = {"reconstruction_weight": 0.0, "entropy_weight": 0.0, "nonnegativity_weight": 0.0}
LOSSES: dict[str, dict[str, float]] = {
    "supervised": OFF,
    "+ reconstruction": OFF | {"reconstruction_weight": 0.5},
    "+ entropy": OFF | {"entropy_weight": 0.5},
    "+ nonnegativity": OFF | {"nonnegativity_weight": 0.5},
    "all three": OFF | {"reconstruction_weight": 0.5, "entropy_weight": 0.5, "nonnegativity_weight": 0.5},
    "all, reconstruction 5": OFF | {"reconstruction_weight": 5.0, "entropy_weight": 0.5, "nonnegativity_weight": 0.5},
}
"""Name of a combination of losses -> weights of the losses besides that of the labels."""

BATCH = 100


@dataclass(frozen=True)
class Budget:
    """The settings of training that all combinations of losses share.

    Args:
        epochs: the number of epochs.
        lr: the learning rate at the start; in ten steps it falls to a fiftieth of this value by the end.
        options: further options of the model, by name.
    """

    epochs: int
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def optimizer(self, size: int) -> OptimizerSettings:
        """Return the optimiser for ``size`` training images."""
        steps = -(-size // BATCH) * self.epochs
        decay = SchedulerSettings("StepLR", interval="step", step_size=max(1, steps // 10), gamma=0.02**0.1)
        return OptimizerSettings("Adam", lr=self.lr, scheduler=decay)


def train(data: Splits, seed: int, budget: Budget, weights: Mapping[str, float], every_epoch: bool = False) -> Metrics:
    """Train one model and return its metrics, with the errors after all epochs if ``every_epoch`` is set."""
    return trained(data, seed, budget, weights, every_epoch)[0]


def trained(
    data: Splits, seed: int, budget: Budget, weights: Mapping[str, float], every_epoch: bool = False
) -> tuple[Metrics, DRMM]:
    """Train one model; return its metrics and the model itself."""
    pyro.set_rng_seed(seed)
    plan = build(data, label_seed=seed, **(dict(budget.options) | dict(weights)))
    begin = time.process_time()
    result = fit(
        plan.with_optimizer(budget.optimizer(len(data.train))),
        data,
        FitSettings(max_epochs=budget.epochs, batch_size=BATCH, seed=seed),
        enable_progress_bar=False,
        check_val_every_n_epoch=1 if every_epoch else budget.epochs,
    )
    metrics: Metrics = dict(result.metrics) | {"seconds": time.process_time() - begin}
    if every_epoch:
        metrics["errors"] = [row["error"] for row in result.history]
    objective = plan.players[0].objective
    assert isinstance(objective, SemiSupervisedObjective)
    return metrics, objective.model.eval()


def cluster(data: Splits, layers: list[Layer], seed: int, steps: int = 5) -> dict[str, float]:
    """Train without labels by hard EM; return errors: the percentage of images outside the cluster of their class."""
    assert data.image_shape is not None
    assert data.train.y is not None
    x, y = data.train.x.view(-1, 1, *data.image_shape), data.train.y
    torch.manual_seed(seed)
    model = DRMM(layers, 10, tuple(x.shape[1:]), prior="factorised")
    begin = time.process_time()
    start = start_classes(model, x, torch.Generator().manual_seed(seed))
    history = hard_em(model, x, num_steps=steps, e_step="joint", solver_steps=10)
    c, _ = hard_e_step(model, x)
    return {
        "start": _unmatched(start, y),
        "error": _unmatched(c, y),
        "first": history[0].before,
        "last": history[-1].after,
        "seconds": time.process_time() - begin,
    }


def k_means(data: Splits, seed: int) -> float:
    """Return the percentage of images outside the cluster of their class for k-means on pixels."""
    from sklearn.cluster import KMeans

    assert data.train.y is not None
    c = KMeans(10, n_init=1, random_state=seed).fit_predict(data.train.x.numpy())
    return _unmatched(torch.from_numpy(c).long(), data.train.y)


def recognised(model: DRMM, data: Splits, per_class: int = 100) -> tuple[Metrics, Tensor]:
    """Sample images of every class; return how many a classifier of real images recognises, and some of them by class.

    The classifier is trained with all labels of the training data. It recognises a sample if it assigns the class that
    was asked for a probability above .9.
    """
    from sklearn.neural_network import MLPClassifier

    assert data.train.y is not None
    assert data.valid is not None
    real = MLPClassifier((100,), random_state=0, max_iter=300).fit(data.train.x.numpy(), data.train.y.numpy())
    c = torch.arange(model.classes).repeat_interleave(per_class)
    distribution = estimate_switch_distribution(model, data.train.x[:2000])
    torch.manual_seed(0)
    images, _ = model.sample(len(c), c, with_noise=False, switch_distribution=distribution)
    flat = images.flatten(1).clamp(0, 1)
    confidence, label = torch.from_numpy(real.predict_proba(flat.numpy())).max(-1)
    sure = confidence > 0.9
    metrics = {
        "accuracy": real.score(data.valid.x.numpy(), data.valid.y.numpy()),
        "sure": sure.double().mean().item(),
        "as_asked": (sure & (label == c)).double().mean().item(),
        "classes": len(label[sure].unique()),
    }
    return metrics, images.unflatten(0, (model.classes, per_class))[:, :6]


def _unmatched(c: Tensor, y: Tensor) -> float:
    return 100 * (match_clusters(c, y, 10)[c] != y).double().mean().item()
