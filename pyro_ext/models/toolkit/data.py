"""Batches of data in models: their plate, metrics averaged over a loader, and the choice of labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_ext.datasets import IndexedDataset
from pyro_ext.inference import local_params
from pyro_ext.inference.training.metrics import num_rows
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["choose_labelled", "data_plate", "mean_metrics"]


def data_plate(size: int, x: Tensor, index: Tensor | None, name: str = "data") -> pyro.plate:
    """Return the rightmost plate, of ``size`` data points of which a batch is at hand.

    Indices are always handed over: left to itself a plate would permute all of ``size`` at each call.

    Args:
        size: the number N of data points; log-probabilities of a batch of B are scaled by N / B.
        x: the batch, shape ``(B, ...)``.
        index: the places of the batch in the data set, shape ``(B,)``; the first ones if None.
        name: what the plate is called.

    Example:
        >>> with data_plate(100, torch.zeros(4, 2), None) as index:
        ...     index
        tensor([0, 1, 2, 3])
    """
    subsample = torch.arange(len(x), device=x.device) if index is None else index
    return pyro.plate(name, size, subsample=subsample, dim=-1)


def choose_labelled(data: IndexedDataset, num_labels: int, classes: int, seed: int = 0) -> IndexedDataset:
    """Return some data points with their labels, as many of each class as of the others, or one more.

    Args:
        data: data points and labels.
        num_labels: the number of data points to choose.
        classes: the number C of classes.
        seed: the seed of the choice.

    Raises:
        ValueError: if there are no labels, or too few of a class.

    Example:
        >>> data = IndexedDataset(torch.zeros(9, 4), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2]))
        >>> choose_labelled(data, num_labels=5, classes=3).y
        tensor([0, 0, 1, 1, 2])
    """
    if data.y is None:
        raise ValueError("data must hold labels to choose from, got none")
    if positive_int("num_labels", num_labels) > len(data):
        raise ValueError(f"num_labels must be at most {len(data)}, the number of data points, got {num_labels}")
    if num_labels < classes:
        raise ValueError(f"num_labels must be at least {classes}, one of each class, got {num_labels}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator, device="cpu")
    chosen = []
    for label in range(classes):
        wanted = num_labels // classes + (label < num_labels % classes)
        own = order[data.y[order] == label]
        if len(own) < wanted:
            raise ValueError(f"num_labels={num_labels} needs {wanted} data points of class {label}, got {len(own)}")
        chosen.append(own[:wanted])
    rows = torch.cat(chosen)
    return IndexedDataset(data.x[rows], data.y[rows])


def mean_metrics(
    module: nn.Module, metrics: Callable[..., Mapping[str, Tensor]], seed: int = 0
) -> Callable[[Iterable[Any]], dict[str, float]]:
    """Return a function from a loader to means of metrics over all its data points, for ``TrainingPlan.evaluate``.

    Args:
        module: whose device and type the tensors of a batch are moved to, integers to the device only.
        metrics: called as ``metrics(*batch)`` without gradients; returns named tensors, either of shape ``(B,)``, a
            value for each data point, or ``()``, their mean over the batch.
        seed: the seed of the noise, which is the same whenever parameters and data are.

    Raises:
        ValueError: by the function returned, if the loader is empty.

    Example:
        >>> evaluate = mean_metrics(torch.nn.Linear(2, 1), lambda x, y, index: {"size": x.square().sum(-1)})
        >>> evaluate([(torch.ones(3, 2), None, torch.arange(3)), (torch.zeros(1, 2), None, torch.arange(1))])
        {'size': 1.5}
    """

    @torch.no_grad()
    def evaluate(loader: Iterable[Any]) -> dict[str, float]:
        like = next((p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()), torch.zeros(()))
        totals: dict[str, Tensor] = {}
        number = 0
        with isolated_random_state(seed, like.device), local_params():  # a DataLoader draws a seed of its own
            for batch in loader:
                count = num_rows(batch)
                number += count
                for name, value in metrics(*(_like(part, like) for part in batch)).items():
                    total = value.double().sum() if value.dim() else count * value.double()
                    totals[name] = totals[name] + total if name in totals else total
        if number == 0:
            raise ValueError("loader must hold at least one data point, got none")
        return {name: float(total) / number for name, total in totals.items()}

    return evaluate


def _like(part: Any, like: Tensor) -> Any:
    if isinstance(part, tuple | list):
        return [_like(inner, like) for inner in part]
    if not isinstance(part, Tensor):
        return part
    return part.to(like) if part.is_floating_point() else part.to(like.device)
