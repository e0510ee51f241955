"""Checkpoints at the ends of epochs, every so many steps, and on Ctrl-C; early stopping; and the progress bar."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, TQDMProgressBar
from lightning.pytorch.plugins import TorchCheckpointIO

from pyro_ext.inference.training.folder import RunFolder
from pyro_ext.utils.files import replacing

__all__ = [
    "AtomicCheckpointIO",
    "HeadlineStopping",
    "InterruptRequest",
    "InterruptedAtStepError",
    "LossBar",
    "RunCheckpoint",
]

_BAR_EVERY = 10  # steps; each refresh waits for the device


class InterruptedAtStepError(Exception):
    """Ends training after a checkpoint was written because of Ctrl-C.

    Not a KeyboardInterrupt: on that Lightning leaves the Python process.
    """


class InterruptRequest:
    """While it lasts, the first Ctrl-C is noted instead of raised; the second one acts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> InterruptRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT) or signal.default_int_handler
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._put_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._put_back()
        print("\nstopping after this step; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    def _put_back(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their final place, not in a folder for temporary files, and only whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        with replacing(path) as partial:
            torch.save(checkpoint, partial)


class LossBar(TQDMProgressBar):
    """Shows the last step's losses besides the last epoch's metrics, and reads them only when the bar is redrawn."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=_BAR_EVERY)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what stands at the end of the bar."""
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return {name: f"{loss.item():.4g}" for name, loss in pl_module.last_losses.items()} | shown

    def init_train_tqdm(self) -> Any:
        """Return the bar of an epoch, with epochs counted from 1 as everywhere else."""
        bar = super().init_train_tqdm()
        bar.mininterval = 0.5
        return bar

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin the bar of an epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


class HeadlineStopping(EarlyStopping):
    """Early stopping that looks at a held-out metric only after the epochs in which it was evaluated.

    Args:
        window: the number of earlier values whose mean a value must not be worse than; the best one counts if None.
        **options: those of Lightning's callback.
    """

    def __init__(self, *, window: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.window = window
        self.recent: list[float] = []

    def _evaluate_stopping_criteria(self, current: Any) -> tuple[bool, str | None]:
        if self.window is None:
            return super()._evaluate_stopping_criteria(current)
        mean = sum(self.recent[-self.window :]) / self.window
        limit = current.new_tensor(mean)
        fine = bool(self.monitor_op(current, limit)) or bool(current == limit)  # what is not a number is not
        worse = len(self.recent) > self.window and not fine
        self.recent = [*self.recent, float(current)][-self.window - 1 :]
        self.wait_count: int = self.wait_count + 1 if worse else 0
        stops = self.wait_count >= self.patience
        return stops, f"{self.monitor} is worse than the mean of the {self.window} values before" if stops else None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return super().state_dict() | {"recent": self.recent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.recent = list(state_dict.get("recent", []))
        super().load_state_dict(state_dict)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further where the run that is resumed has stopped already."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience

    def _should_skip_check(self, trainer: Trainer) -> bool:
        due = trainer.lightning_module.evaluation_due()
        known = trainer.callback_metrics
        if due and self.monitor not in known and not trainer.sanity_checking:
            raise ValueError(
                f"early_stopping: there is no metric {self.monitor!r}; monitor one of {', '.join(sorted(known))}"
            )
        return super()._should_skip_check(trainer) or not due


class RunCheckpoint(Checkpoint):
    """Keeps the checkpoint and the metrics of a run folder up to date.

    There is a checkpoint from before the first step on, so a run can be resumed whenever it was stopped.

    Args:
        folder: where to write.
        every_n_steps: also write a checkpoint after each so many steps within an epoch.
        interrupt: whether Ctrl-C was pressed.
    """

    def __init__(self, folder: RunFolder, every_n_steps: int | None, interrupt: InterruptRequest) -> None:
        super().__init__()
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.interrupt = interrupt
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what there is: nothing yet, or the rows of the part of the run before a resume."""
        self._steps = pl_module.steps
        if trainer.is_global_zero and pl_module.progress.history:
            self.folder.write_metrics(pl_module.progress.history)
        if trainer.ckpt_path is None:
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if one is due, unless the epoch's own follows at once."""
        stepped = pl_module.steps != self._steps  # not within accumulated gradients, which no checkpoint holds
        self._steps = pl_module.steps
        if trainer.is_last_batch or not stepped:
            return
        due = self.every_n_steps is not None and self._steps % self.every_n_steps == 0
        if due or self.interrupt.requested:
            self._save(trainer)
        self._stop_if_asked()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's checkpoint and its row of metrics."""
        self._save(trainer)
        if trainer.is_global_zero:
            self.folder.write_metrics(pl_module.progress.history)
        self._stop_if_asked()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the metrics, which a kill after the last checkpoint may have left short."""
        if trainer.is_global_zero:
            self.folder.complete_metrics(pl_module.progress.history)

    def _save(self, trainer: Trainer) -> None:
        # every process has its share in the checkpoint, one writes it
        trainer.save_checkpoint(self.folder.checkpoint, weights_only=False)

    def _stop_if_asked(self) -> None:
        if self.interrupt.requested:
            raise InterruptedAtStepError
