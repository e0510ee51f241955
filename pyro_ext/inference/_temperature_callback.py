"""The Lightning side of a temperature schedule; imported only when Lightning is in use."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from pyro_ext.inference.temperature import TemperatureSchedule

__all__ = ["ScheduleCallback"]


class ScheduleCallback(Callback):
    """Keeps a schedule at the number of optimiser steps taken.

    Args:
        schedule: what to advance.
    """

    def __init__(self, schedule: TemperatureSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the number of steps, that of the run before where one is resumed."""
        self._follow(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follow after each batch."""
        self._follow(trainer, pl_module)

    def _follow(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # FitModule counts the steps on the bound; Lightning those of all optimisers together
        self.schedule.set_num_steps(getattr(pl_module, "steps", trainer.global_step))
