"""What a run shows besides the bar: its options in a file, its expected time, and lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from pyro_ext.inference.training.metrics import NOT_METRICS
from pyro_ext.utils.files import write_text

__all__ = ["Announcement", "EpochLines", "SaveConfig"]

_MEASURED = 20  # steps, after which the time of a run is estimated
_WARM_UP = 3  # steps that are slower than all others
_LONG = 600.0  # seconds; a run that is expected to take longer is announced
_EVERY = 10.0  # seconds between lines


class SaveConfig(Callback):
    """Writes the options of the run when it is about to begin.

    Args:
        text: the options as YAML.
        out: the folder of the run.
    """

    def __init__(self, text: str, out: Path) -> None:
        self.text = text
        self.out = out

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if trainer.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
            write_text(self.out / "config.yaml", self.text)


class Announcement(Callback):
    """Says how long a long run is going to take, once its first steps have been measured."""

    def __init__(self) -> None:
        self._steps = 0
        self._start = 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Measure the first steps, and announce the time of all of them if it is long."""
        self._steps += 1
        if self._steps == _WARM_UP:
            self._start = time.perf_counter()
        if self._steps != _WARM_UP + _MEASURED or not trainer.is_global_zero:
            return
        epochs, steps = (trainer.max_epochs or 0) - trainer.current_epoch, int(trainer.num_training_batches)
        seconds = (time.perf_counter() - self._start) / _MEASURED * epochs * steps
        if seconds > _LONG:
            print(
                f"{epochs:,} epochs of {steps:,} steps: about {_duration(seconds)} on this machine, without evaluation "
                "(--trainer.max_epochs makes it shorter; Ctrl-C stops with a checkpoint, --resume continues)",
                file=sys.stderr,
            )


class EpochLines(Callback):
    """Prints the metrics of epochs as lines, not more often than every few seconds, and those of the last one."""

    def __init__(self) -> None:
        self._last = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the epoch before, if it is time."""
        if time.monotonic() - self._last >= _EVERY and pl_module.progress.history:
            self._print(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the last epoch."""
        self._print(trainer, pl_module)

    def _print(self, trainer: Trainer, pl_module: Any) -> None:
        self._last = time.monotonic()
        if trainer.is_global_zero and pl_module.progress.history:
            row = pl_module.progress.history[-1]
            shown = [f"{name} {value:.5g}" for name, value in row.items() if name not in NOT_METRICS]
            print(f"epoch {row['epoch']:g}/{trainer.max_epochs}: {', '.join(shown)}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """Return a time as a person says it.

    Example:
        >>> _duration(5400)
        '1.5 hours'
    """
    return f"{seconds / 60:.0f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"
