"""Metrics averaged over a loader, with noise that is the same at every call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_ext.inference import local_params
from pyro_ext.inference.training.metrics import num_rows
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["mean_metrics"]


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
        return type(part)(_like(inner, like) for inner in part)
    if not isinstance(part, Tensor):
        return part
    return part.to(like) if part.is_floating_point() else part.to(like.device)
