"""Runs of the Deep Rendering Mixture Model by name, each kept as one line of a file once it is done."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_ext.datasets import Splits
from pyro_ext.inference.fit import fit
from pyro_ext.models.drmm import DRMM, Layer, build, estimate_switch_law
from pyro_ext.models.drmm.clusters import match_clusters, start_classes
from pyro_ext.models.drmm.em import expected, hard_em

__all__ = ["ARMS", "Budget", "Lines", "cluster", "k_means", "recognised", "train", "trained"]

Metrics = dict[str, Any]

OFF = {"reconstruction_weight": 0.0, "entropy_weight": 0.0, "nonnegativity_weight": 0.0}
ARMS: dict[str, dict[str, float]] = {
    "supervised": OFF,
    "+ reconstruction": OFF | {"reconstruction_weight": 0.5},
    "+ entropy": OFF | {"entropy_weight": 0.5},
    "+ nonnegativity": OFF | {"nonnegativity_weight": 0.5},
    "all three": OFF | {"reconstruction_weight": 0.5, "entropy_weight": 0.5, "nonnegativity_weight": 0.5},
    "all, reconstruction 5": OFF | {"reconstruction_weight": 5.0, "entropy_weight": 0.5, "nonnegativity_weight": 0.5},
}
"""Name -> weights of the losses besides that of the labels."""


@dataclass(frozen=True)
class Budget:
    """The same for all arms of a comparison.

    Args:
        epochs: how many.
        lr: the learning rate at the start; it falls to a fiftieth by the end, in ten steps.
        options: further options of the model.
    """

    epochs: int
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)


class Lines:
    """Results in a file, one JSON object a line, by key; a line that a stopped run left unfinished is passed over.

    Args:
        path: the file, made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            self._found[entry["key"]] = entry["value"]

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what is kept under a key, or make and keep it."""
        if key not in self._found:
            print(f"{key} ...", flush=True)
            self._found[key] = make()
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, "value": self._found[key]}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return self._found[key]


def train(data: Splits, seed: int, budget: Budget, arm: Mapping[str, float], every_epoch: bool = False) -> Metrics:
    """Train one model and return its metrics, with the errors of all epochs if wanted."""
    return trained(data, seed, budget, arm, every_epoch)[0]


def trained(
    data: Splits, seed: int, budget: Budget, arm: Mapping[str, float], every_epoch: bool = False
) -> tuple[Metrics, DRMM]:
    """Train one model; return its metrics and the model itself."""
    pyro.set_rng_seed(seed)
    built = build(data, label_seed=seed, **(dict(budget.options) | dict(arm)))
    steps = -(-len(data.train) // 100) * budget.epochs
    begin = time.process_time()
    result = fit(
        built,
        data,
        max_epochs=budget.epochs,
        lr=budget.lr,
        lr_decay=0.02**0.1,
        lr_decay_every=max(1, steps // 10),
        seed=seed,
        batch_size=100,
        enable_progress_bar=False,
        check_val_every_n_epoch=1 if every_epoch else budget.epochs,
    )
    metrics: Metrics = dict(result.metrics) | {"seconds": time.process_time() - begin}
    if every_epoch:
        metrics["errors"] = [row["error"] for row in result.history]
    return metrics, built.model.drmm.eval()


def cluster(data: Splits, layers: list[Layer], seed: int, steps: int = 5) -> dict[str, float]:
    """Train without labels by hard EM; return the per cent of images outside the cluster of their class, and errors."""
    assert data.image_shape is not None
    assert data.train.y is not None
    x, y = data.train.x.view(-1, 1, *data.image_shape), data.train.y
    torch.manual_seed(seed)
    model = DRMM(layers, 10, tuple(x.shape[1:]), prior="factorised")
    begin = time.process_time()
    start = start_classes(model, x, torch.Generator().manual_seed(seed))
    history = hard_em(model, x, num_steps=steps, e_step="joint", solver_steps=10)
    c, _ = expected(model, x)
    return {
        "start": _unmatched(start, y),
        "error": _unmatched(c, y),
        "first": history[0].before,
        "last": history[-1].after,
        "seconds": time.process_time() - begin,
    }


def k_means(data: Splits, seed: int) -> float:
    """Return the same per cent for k-means on pixels."""
    from sklearn.cluster import KMeans

    assert data.train.y is not None
    c = KMeans(10, n_init=1, random_state=seed).fit_predict(data.train.x.numpy())
    return _unmatched(torch.from_numpy(c).long(), data.train.y)


def recognised(model: DRMM, data: Splits, per_class: int = 100) -> tuple[Metrics, Tensor]:
    """Sample images of every class; return how many a classifier of real images recognises, and some of them by class.

    The classifier knows all labels of the training data; an image counts if it is labelled as was asked for with a
    probability above .9.
    """
    from sklearn.neural_network import MLPClassifier

    assert data.train.y is not None
    assert data.valid is not None
    real = MLPClassifier((100,), random_state=0, max_iter=300).fit(data.train.x.numpy(), data.train.y.numpy())
    c = torch.arange(model.classes).repeat_interleave(per_class)
    torch.manual_seed(0)
    images, _ = model.sample(len(c), c, with_noise=False, law=estimate_switch_law(model, data.train.x[:2000]))
    flat = images.flatten(1).clamp(0, 1)
    confidence, label = torch.from_numpy(real.predict_proba(flat.numpy())).max(-1)
    sure = confidence > 0.9
    found = {
        "accuracy": real.score(data.valid.x.numpy(), data.valid.y.numpy()),
        "sure": sure.double().mean().item(),
        "as_asked": (sure & (label == c)).double().mean().item(),
        "classes": len(label[sure].unique()),
    }
    return found, images.unflatten(0, (model.classes, per_class))[:, :6]


def _unmatched(c: Tensor, y: Tensor) -> float:
    return 100 * (match_clusters(c, y, 10)[c] != y).double().mean().item()
