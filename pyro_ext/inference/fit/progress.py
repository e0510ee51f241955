"""What a run has to remember besides parameters and random states: its metrics so far, and the epoch under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["Progress"]

Row = dict[str, float]


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
        self._count = 0
        self._seconds = 0.0
        self._started = time.perf_counter()

    def add(self, losses: Mapping[str, torch.Tensor], count: int) -> None:
        """Take up the losses of one step over ``count`` data points, without waiting for their values."""
        for name, loss in losses.items():
            term = _widest(loss.detach()) * count
            self._sums[name] = self._sums[name] + term if name in self._sums else term
        self._count += count

    def means(self, total: Callable[[torch.Tensor], torch.Tensor] = lambda own: own) -> dict[str, float]:
        """Return the means over the epoch so far, weighted by data points.

        Args:
            total: sums a tensor over all processes.
        """
        if not self._sums:
            return {}
        own = torch.stack([*self._sums.values()])
        sums = total(torch.cat([own, own.new_full((1,), self._count)]))
        return dict(zip(self._sums, (sums[:-1] / sums[-1]).tolist(), strict=True))

    def seconds(self) -> float:
        """Return how long the epoch has taken so far, without the time a run lay interrupted."""
        return self._seconds + time.perf_counter() - self._started

    def epoch_state(self) -> dict[str, Any]:
        """Return the state of the epoch under way, in this process."""
        sums = {name: value.cpu() for name, value in self._sums.items()}
        return {"sums": sums, "count": self._count, "seconds": self.seconds()}

    def load_epoch_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue an epoch from a state that :meth:`epoch_state` returned."""
        self.start_epoch()
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._count = state["count"]
        self._seconds = state["seconds"]


def _widest(value: torch.Tensor) -> torch.Tensor:
    # Sums over an epoch in double precision, except where the device has none.
    return value if value.device.type == "mps" else value.double()
