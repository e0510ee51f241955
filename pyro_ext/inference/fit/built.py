"""What a model's ``build`` hands to the fit engine and the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer import ELBO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.utils.data import DataLoader


@dataclass
class ExtraLoss:
    """A loss with parameters and an optimiser of its own (an adversary, a critic).

    Args:
        name: what the metrics call it.
        loss: a closure, called as ``loss(*batch)``, that returns a scalar tensor.
        parameters: what its optimiser trains; no other optimiser touches them.
        lr: its learning rate.
    """

    name: str
    loss: Callable[..., torch.Tensor]
    parameters: Iterable[torch.nn.Parameter]
    lr: float = 1e-3


@dataclass
class Built:
    """A model, its guide and what belongs to them, ready to fit.

    Args:
        model: called as ``model(*batch)`` with a batch ``(x, y, index)``.
        guide: called like the model.
        elbo: any ELBO of Pyro or of this package.
        evaluate: maps a loader of held-out batches to named metrics.
        plots: named functions, each taking ``ax=None`` and returning the axes it drew on.
        extra_losses: further losses, each with its own parameters and optimiser.
        schedules: functions that set what changes in the course of training; each is called before every step with
            the number of steps taken, those before a resume included.
        curves: named plots of metrics, given by their names, against epochs.
        files: named functions, each writing what else there is to keep into the file of that name, at a path.
        remarks: what a reader of the metrics should know.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    elbo: ELBO
    evaluate: Callable[[DataLoader[Any]], dict[str, float]] | None = None
    plots: dict[str, Callable[..., Axes]] = field(default_factory=dict)
    extra_losses: list[ExtraLoss] = field(default_factory=list)
    schedules: list[Callable[[int], None]] = field(default_factory=list)
    curves: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    remarks: str = ""
