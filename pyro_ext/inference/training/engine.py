"""From a plan, data and settings to a run whose arguments have been checked, and from there to results."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pyro_ext.inference.training.callbacks import (
    AtomicCheckpointIO,
    HeadlineStopping,
    InterruptedAtStepError,
    InterruptRequest,
    LossBar,
    RunCheckpoint,
)
from pyro_ext.inference.training.data import FitDataModule
from pyro_ext.inference.training.folder import RunFolder
from pyro_ext.inference.training.local import materialise
from pyro_ext.inference.training.metrics import NOT_METRICS
from pyro_ext.inference.training.module import FitModule, Window
from pyro_ext.inference.training.plan import TrainingPlan
from pyro_ext.inference.training.results import FitResult, FitWarning
from pyro_ext.inference.training.resuming import check_example, check_settings, described_settings, storable
from pyro_ext.inference.training.settings import FitSettings
from pyro_ext.utils.checks import one_of, positive_int, positive_number
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["RESERVED", "Run", "prepare"]

RESERVED = (
    "barebones",
    "enable_checkpointing",
    "fast_dev_run",
    "max_epochs",
    "max_steps",
    "overfit_batches",
    "use_distributed_sampler",
)
"""Flags of Lightning's Trainer that the engine sets itself, or that contradict an exact resume."""

_BESIDE_THE_POINT = (
    "does not have many workers",  # the data lie in memory
    "available but not used",  # the user's choice
    "in eval mode at the start of training",  # so is that
    "treespec, LeafSpec",  # between Lightning and PyTorch
    "Checkpoint directory .* exists and is not empty",  # the engine asked already
    "find_unused_parameters=True was specified",  # each player leaves the others' parameters unused
)


@dataclass
class Run:
    """A run whose arguments have been checked, ready to train.

    Args:
        module: what to train.
        data: on what.
        trainer: with what.
        folder: where the results go.
        resume: whether to continue from the checkpoint there.
        interrupt: catches Ctrl-C where it can be honoured at the end of a step.
    """

    module: FitModule
    data: FitDataModule
    trainer: Trainer
    folder: RunFolder | None = None
    resume: bool = False
    interrupt: InterruptRequest = field(default_factory=InterruptRequest)

    def train(self) -> FitResult:
        """Train to the end and return the results.

        Raises:
            KeyboardInterrupt: on Ctrl-C; the folder then holds a checkpoint to resume from.
        """
        with ExitStack() as stack:
            stack.enter_context(_quiet())
            if self.folder is not None and self.trainer.is_global_zero:
                stack.enter_context(self.folder.taken())
            path = str(self.folder.checkpoint) if self.folder is not None and self.resume else None
            # Several processes are not at the same step when the signal comes: those stop at the last checkpoint.
            if self.folder is not None and self.trainer.world_size == 1:
                stack.enter_context(self.interrupt)
            try:
                self.trainer.fit(self.module, datamodule=self.data, ckpt_path=path, weights_only=True)
            except InterruptedAtStepError:
                raise KeyboardInterrupt from None
            except SystemExit:
                if self.trainer.state.status != TrainerStatus.INTERRUPTED:
                    raise
                raise KeyboardInterrupt from None
        result = self._result()
        for message in result.warnings:
            warnings.warn(message, FitWarning, stacklevel=3)
        return result

    def _result(self) -> FitResult:
        progress, plan = self.module.progress, self.module.plan
        last = progress.history[-1] if progress.history else {}
        metrics = {name: value for name, value in last.items() if name not in NOT_METRICS}
        metrics |= {f"test_{name}": value for name, value in progress.test.items()}
        result = FitResult(metrics, progress.history, plan, self.module.seed)
        if plan.diagnose is not None:
            result.warnings = [*plan.diagnose(metrics)]
        if not math.isfinite(metrics.get(plan.headline, 0.0)):
            result.warnings.append(
                f"the headline metric {plan.headline} is {metrics[plan.headline]}: training has diverged; try a "
                "smaller learning rate"
            )
        if self.folder is not None:
            result.checkpoint, result.metrics_file = self.folder.checkpoint, self.folder.metrics
        return result


def prepare(
    plan: TrainingPlan,
    data: Any,
    settings: FitSettings | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **trainer: Any,
) -> Run:
    """Check everything that :func:`~pyro_ext.inference.fit` is given, and stop just before training.

    Nothing is written. Arguments and errors are those of :func:`~pyro_ext.inference.fit`.
    """
    settings = FitSettings() if settings is None else settings
    _check_types(plan, settings)
    folder, saved = _open_folder(out, resume, overwrite, plan)
    resume = saved is not None
    seed = _chosen_seed(settings, saved)
    settings = replace(settings, seed=seed)
    interrupt = InterruptRequest()
    callbacks = [] if folder is None else [RunCheckpoint(folder, settings.checkpoint_every_n_steps, interrupt)]
    window, trainer = _window(plan, trainer)
    module_data = FitDataModule(data, settings.batch_size, seed)
    if trainer.get("logger"):  # short epochs are to be seen, too
        trainer = {"log_every_n_steps": min(50, len(module_data.train_dataloader()))} | trainer
    engine = _trainer(trainer, settings, [*_stopping(plan, settings), *callbacks])
    _give_sizes(plan, module_data.size)
    gradients = {name: getattr(engine, name) for name in ("accumulate_grad_batches", "gradient_clip_val")}
    if window.accumulate > 1 or window.clip is not None:
        gradients = {"accumulate_grad_batches": window.accumulate, "gradient_clip_val": window.clip}
    gradients["gradient_clip_algorithm"] = window.clip_algorithm or engine.gradient_clip_algorithm
    gradients["precision"] = str(engine.precision)
    described = described_settings(plan, settings, seed, module_data.size, engine.world_size) | gradients
    check_settings(saved, described)
    example = _to_device_of(plan, module_data.example())
    check_example(saved, example)
    with isolated_random_state(seed, torch.device("cpu")):
        materialise(plan.in_order(), _arguments(example), several_processes=engine.world_size > 1)
    module = FitModule(plan, settings, described, storable(example), window)
    module.check_optimizers()
    _check_held_out(plan, settings, module_data)
    if saved is not None:
        module.on_load_checkpoint(saved)
    return Run(module, module_data, engine, folder, resume, interrupt)


def _check_types(plan: Any, settings: Any) -> None:
    if not isinstance(plan, TrainingPlan):
        raise ValueError(f"plan must be a TrainingPlan, as a model's build returns it, got {type(plan).__name__}")
    if not isinstance(settings, FitSettings):
        raise ValueError(f"settings must be FitSettings, got {settings!r}")


def _open_folder(
    out: str | Path | None, resume: bool, overwrite: bool, plan: TrainingPlan
) -> tuple[RunFolder | None, dict[str, Any] | None]:
    if resume and overwrite:
        raise ValueError("resume=True and overwrite=True contradict each other; choose one")
    if out is None:
        if resume or overwrite:
            raise ValueError(f"{'resume' if resume else 'overwrite'}=True needs out, the folder of the run")
        return None, None
    folder = RunFolder(out)
    if resume and not folder.never_began:
        return folder, folder.load_checkpoint()
    if rank_zero_only.rank == 0:  # the other processes start when the first has begun to write
        plots = [*plan.plots, *plan.curves, *(f"loss_{player.name}" for player in plan.players)]
        folder.check_empty(overwrite, [*(f"{name}.png" for name in plots), *plan.files])
    return folder, None


def _chosen_seed(settings: FitSettings, saved: Mapping[str, Any] | None) -> int:
    if settings.seed is not None:
        return settings.seed
    return int(torch.randint(2**31 - 1, ()).item() if saved is None else saved["fit"]["settings"]["seed"])


def _give_sizes(plan: TrainingPlan, size: int) -> None:
    for objective in plan.elbo_objectives:
        objective.num_data = size


def _window(plan: TrainingPlan, flags: dict[str, Any]) -> tuple[Window, dict[str, Any]]:
    """Take over, for several players, the flags that the Trainer refuses then."""
    accumulate, clip = flags.get("accumulate_grad_batches"), flags.get("gradient_clip_val")
    algorithm = flags.get("gradient_clip_algorithm")
    if accumulate is not None:
        positive_int("accumulate_grad_batches", accumulate)
    if clip is not None:
        positive_number("gradient_clip_val", clip)
    one_of("gradient_clip_algorithm", algorithm, (None, "norm", "value"))
    if len(plan.players) == 1:
        return Window(), flags
    taken_over = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
    flags = {name: value for name, value in flags.items() if name not in taken_over}
    if (accumulate or 1) > 1 and any(player.optimizer.name == "LBFGS" for player in plan.players):
        raise ValueError("accumulate_grad_batches does not go with LBFGS, which computes its loss several times a step")
    if clip is not None and flags.get("precision") in ("16", 16, "16-mixed"):
        raise ValueError("gradient_clip_val does not go with several players in precision 16-mixed; use bf16-mixed")
    strategy = flags.get("strategy") or "auto"
    if strategy == "ddp" or (strategy == "auto" and _several(flags.get("devices"))):
        flags["strategy"] = DDPStrategy(find_unused_parameters=True)  # in a player's turn those of the others
    return Window(1 if accumulate is None else accumulate, clip, algorithm), flags


def _several(devices: Any) -> bool:
    if devices in (None, "auto", -1, "-1"):
        return torch.cuda.device_count() > 1
    if isinstance(devices, list):
        return len(devices) > 1
    return str(devices).isdigit() and int(devices) > 1


def _check_held_out(plan: TrainingPlan, settings: FitSettings, data: FitDataModule) -> None:
    """Raise a ValueError if something follows a held-out metric and there are no held-out data."""
    schedulers = [player.optimizer.scheduler or settings.scheduler for player in plan.players]
    follows = any(scheduler is not None and scheduler.follows_a_metric for scheduler in schedulers)
    if data.splits.valid is None and (follows or settings.early_stopping is not None):
        what = "early_stopping" if settings.early_stopping is not None else "the scheduler"
        raise ValueError(f"{what} follows a held-out metric, and there are no held-out data; pass data with 'valid'")


def _stopping(plan: TrainingPlan, settings: FitSettings) -> list[HeadlineStopping]:
    early = settings.early_stopping
    if early is None:
        return []
    monitor = early.monitor or plan.headline
    if not monitor or plan.evaluate is None:
        raise ValueError("early_stopping needs a held-out metric: name one as monitor, of a plan that has evaluate")
    mode = early.mode or (plan.headline_mode if monitor == plan.headline else "min")
    return [
        HeadlineStopping(
            monitor=monitor,
            min_delta=early.min_delta,
            patience=early.patience,
            mode=mode,
            check_finite=False,
            check_on_train_epoch_end=True,
            window=early.window,
        )
    ]


def _trainer(flags: dict[str, Any], settings: FitSettings, own: list[Any]) -> Trainer:
    known = inspect.signature(Trainer).parameters
    for name in flags:
        if name in RESERVED:
            raise ValueError(f"{name} is set by fit itself; see FitSettings")
        if name not in known:
            raise ValueError(f"fit has no argument {name!r}, nor has lightning's Trainer a flag of that name")
    flags = {"logger": False, "enable_model_summary": False} | flags
    callbacks = flags.get("callbacks") or []
    callbacks = [callbacks] if not isinstance(callbacks, (list, tuple)) else [*callbacks]
    if flags.get("enable_progress_bar", True) and not any(isinstance(given, ProgressBar) for given in callbacks):
        callbacks.append(LossBar())
    checkpointing = any(isinstance(callback, RunCheckpoint) for callback in own)
    if checkpointing:
        plugins = flags.get("plugins") or []
        plugins = [plugins] if not isinstance(plugins, (list, tuple)) else [*plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            flags["plugins"] = [*plugins, AtomicCheckpointIO()]
    flags |= {
        "callbacks": [*callbacks, *own],
        "enable_checkpointing": checkpointing,
        "use_distributed_sampler": False,
    }
    try:
        with _quiet():
            return Trainer(max_epochs=settings.max_epochs, **flags)
    except MisconfigurationException as error:
        raise ValueError(f"the Trainer refuses its flags: {error}") from error


def _arguments(batch: Any) -> Any:
    return batch if isinstance(batch, tuple | list) else (batch,)


def _to_device_of(plan: TrainingPlan, batch: Any) -> Any:
    parameters = (p for player in plan.players for p in player.objective.parameters())
    tensor = next(parameters, None)
    return batch if tensor is None else _moved(batch, tensor.device)


def _moved(part: Any, device: torch.device) -> Any:
    if isinstance(part, torch.Tensor):
        return part.to(device)
    if isinstance(part, tuple | list):
        moved = [_moved(inner, device) for inner in part]
        return type(part)(*moved) if hasattr(part, "_fields") else type(part)(moved)
    return part


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back Lightning's notices about hardware and services, and warnings that do not matter here."""
    notices = logging.getLogger("lightning.pytorch")
    level = notices.level
    notices.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _BESIDE_THE_POINT:
                warnings.filterwarnings("ignore", f"(?s).*{message}")
            yield
    finally:
        notices.setLevel(level)
