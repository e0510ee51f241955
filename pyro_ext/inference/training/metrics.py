"""The metrics of a run: means of losses over the epoch under way, rows of completed epochs, held-out evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pyro_ext.inference.training.local import local_params

__all__ = ["NOT_METRICS", "Progress", "evaluation_mode", "loss_names", "num_rows"]

Row = dict[str, float]

NOT_METRICS = ("epoch", "step", "seconds")
"""Columns of the rows of epochs that say when, not how good."""


class Progress:
    """The rows of metrics of completed epochs, and running means over the current one.

    Example:
        >>> progress = Progress()
        >>> progress.start_epoch()
        >>> progress.add({"train_loss": torch.tensor(1.0)}, count=30)
        >>> progress.add({"train_loss": torch.tensor(4.0)}, count=15)
        >>> progress.means()
        {'train_loss': 2.0}
    """

    def __init__(self) -> None:
        self.history: list[Row] = []
        self.test: dict[str, float] = {}
        self.start_epoch()

    def start_epoch(self) -> None:
        """Forget the running means and start the clock."""
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._seconds = 0.0
        self._started = time.perf_counter()

    def add(self, losses: Mapping[str, torch.Tensor], count: int) -> None:
        """Take up the losses of one step over ``count`` data points, without waiting for their values."""
        for name, loss in losses.items():
            term = _widest(loss.detach()) * count
            self._sums[name] = self._sums[name] + term if name in self._sums else term
            self._counts[name] = self._counts.get(name, 0) + count

    def names(self) -> list[str]:
        """Return the names of all losses of the epoch so far, in this process."""
        return [*self._sums]

    def means(
        self,
        total: Callable[[torch.Tensor], torch.Tensor] = lambda own: own,
        names: Sequence[str] | None = None,
        device: torch.device | None = None,
    ) -> dict[str, float]:
        """Return the means over the epoch so far, weighted by data points.

        Args:
            total: sums a tensor over all processes.
            names: the names of all losses in an order that all processes agree on; those of this process if None.
            device: where losses are, for a process that has none.
        """
        names = self.names() if names is None else names
        if not names:
            return {}
        zero = next(iter(self._sums.values()), torch.zeros((), dtype=torch.float64, device=device)).new_zeros(())
        own = torch.stack([self._sums.get(name, zero) for name in names])
        sums = total(torch.stack([own, own.new_tensor([self._counts.get(name, 0) for name in names])]))
        return dict(zip(names, (sums[0] / sums[1]).tolist(), strict=True))

    def seconds(self) -> float:
        """Return how long the epoch has taken so far, without the time a run lay interrupted."""
        return self._seconds + time.perf_counter() - self._started

    def epoch_state(self) -> dict[str, Any]:
        """Return the state of the epoch under way, in this process."""
        sums = {name: value.cpu() for name, value in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts), "seconds": self.seconds()}

    def load_epoch_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue an epoch from a state that :meth:`epoch_state` returned."""
        self.start_epoch()
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])
        self._seconds = state["seconds"]


def loss_names(player: str, terms: Mapping[str, torch.Tensor], alone: bool) -> dict[str, str]:
    """Return what metrics call the total (under ``""``) and the terms of a player's losses.

    Args:
        player: its name.
        terms: the terms.
        alone: whether it is the only player, whose name is left out.

    Example:
        >>> loss_names("critic", {"penalty": torch.zeros(())}, alone=False)
        {'': 'train_critic', 'penalty': 'train_critic_penalty'}
    """
    prefix = "train" if alone else f"train_{player}"
    return {"": "train_loss" if alone else prefix} | {term: f"{prefix}_{term}" for term in terms}


def num_rows(batch: Any) -> int:
    """Return the number of data points in a batch: the length of its first tensor, 1 if that is a scalar.

    Example:
        >>> num_rows(((torch.zeros(5, 2), None, torch.arange(5)), torch.zeros(3)))
        5
    """
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.dim() else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((num_rows(part) for part in parts if isinstance(part, torch.Tensor | tuple | list | Mapping)), 1)


@contextmanager
def evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Run a block without gradients and with all modules in evaluation mode, and put the modes back."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), local_params():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def _widest(value: torch.Tensor) -> torch.Tensor:
    # Sums over an epoch in double precision, except where the device has none.
    return value if value.device.type == "mps" else value.double()
