"""``fit``: from a model, a guide and data to trained parameters and a folder of results."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pyro_ext.inference.fit.built import Built
from pyro_ext.inference.fit.callbacks import InterruptedAtStepError, InterruptRequest, LossBar, RunCheckpoint
from pyro_ext.inference.fit.data import FitDataModule
from pyro_ext.inference.fit.folder import RunFolder
from pyro_ext.inference.fit.local import LocalELBOModule, materialise
from pyro_ext.inference.fit.module import FitModule
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["RESERVED", "FitResult", "Run", "fit", "prepare"]

RESERVED = (
    "barebones",
    "enable_checkpointing",
    "fast_dev_run",
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
)


@dataclass
class FitResult:
    """What came out of a run.

    Args:
        metrics: the last epoch's mean loss per data point (``train_loss``) and held-out metrics, and those on the
            test data, named ``test_...``.
        history: one row of metrics per epoch, with ``epoch``, ``step`` and ``seconds``.
        elbo: the trained model (``.model``), guide (``.guide``) and ELBO; call them within ``local_params()``.
        seed: the seed that repeats the run.
        checkpoint: the last checkpoint, if there is a folder.
        metrics_file: the history as CSV, if there is a folder.
    """

    metrics: dict[str, float]
    history: list[dict[str, float]]
    elbo: LocalELBOModule
    seed: int
    checkpoint: Path | None = None
    metrics_file: Path | None = None


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
        path = str(self.folder.checkpoint) if self.folder is not None and self.resume else None
        with ExitStack() as stack:
            stack.enter_context(_quiet())
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
        return self._result()

    def _result(self) -> FitResult:
        progress = self.module.progress
        last = progress.history[-1] if progress.history else {}
        metrics = {name: value for name, value in last.items() if name not in ("epoch", "step", "seconds")}
        metrics |= {f"test_{name}": value for name, value in progress.test.items()}
        result = FitResult(metrics, progress.history, self.module.elbo, self.module.seed)
        if self.folder is not None:
            result.checkpoint, result.metrics_file = self.folder.checkpoint, self.folder.metrics
        return result


def fit(
    built: Built,
    data: Any,
    *,
    max_epochs: int,
    lr: float = 1e-3,
    lr_decay: float = 1.0,
    lr_decay_every: int = 1,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    batch_size: int = 100,
    checkpoint_every_n_steps: int | None = None,
    **trainer: Any,
) -> FitResult:
    """Fit a model and its guide with Adam, under Lightning's Trainer.

    The loss is minus the bound per data point, with the plates of the model scaled to all N training points. A run
    repeats exactly for a given seed, also when it was interrupted and resumed in between: from the last completed
    epoch, or from the last step at which there was a checkpoint.

    Args:
        built: the model, the guide, the ELBO and what belongs to them.
        data: a :class:`~pyro_ext.datasets.Splits`, or a dataset of batches ``(x, y, index)``.
        max_epochs: the number of passes over the training data, those before a resume included.
        lr: Adam's learning rate.
        lr_decay: by what it is multiplied after every ``lr_decay_every`` steps.
        lr_decay_every: a number of steps.
        seed: the seed of initial guesses, shuffling and noise; by default drawn from PyTorch's generator.
        out: the folder for checkpoint and metrics; without it nothing is written.
        resume: whether to continue the run in ``out``.
        batch_size: the number of data points per step and process.
        checkpoint_every_n_steps: write checkpoints within epochs too.
        **trainer: flags of :class:`lightning.pytorch.Trainer` (``accelerator``, ``devices``, ``strategy``,
            ``callbacks``, ``check_val_every_n_epoch``, ...).

    Raises:
        ValueError: if an argument is wrong, ``out`` is not empty and ``resume`` is not set, there is nothing to resume,
            or a plate draws its own subsample although there are several processes.
        KeyboardInterrupt: on Ctrl-C; ``out`` then holds a checkpoint to resume from.

    Example:
        >>> from pyro_ext.datasets import IndexedDataset
        >>> def model(x, y, index):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", 20, subsample=index):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> data = IndexedDataset(3.0 + torch.randn(20))
        >>> result = fit(Built(model, guide, pyro.infer.Trace_ELBO()), data, max_epochs=2, seed=0, batch_size=10,
        ...              enable_progress_bar=False)
        >>> len(result.history), sorted(result.metrics)
        (2, ['train_loss'])
    """
    run = prepare(
        built,
        data,
        max_epochs=max_epochs,
        lr=lr,
        lr_decay=lr_decay,
        lr_decay_every=lr_decay_every,
        seed=seed,
        out=out,
        resume=resume,
        batch_size=batch_size,
        checkpoint_every_n_steps=checkpoint_every_n_steps,
        **trainer,
    )
    return run.train()


def prepare(
    built: Built,
    data: Any,
    *,
    max_epochs: int,
    lr: float = 1e-3,
    lr_decay: float = 1.0,
    lr_decay_every: int = 1,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    batch_size: int = 100,
    checkpoint_every_n_steps: int | None = None,
    **trainer: Any,
) -> Run:
    """Check everything that :func:`fit` is given, and stop just before training. Nothing is written.

    Arguments and errors are those of :func:`fit`.
    """
    positive_int("max_epochs", max_epochs)
    if checkpoint_every_n_steps is not None:
        positive_int("checkpoint_every_n_steps", checkpoint_every_n_steps)
    _check_number("lr", lr)
    _check_number("lr_decay", lr_decay)
    positive_int("lr_decay_every", lr_decay_every)
    elbo = LocalELBOModule(built.model, built.guide, built.elbo)
    folder, saved = _open_folder(out, resume)
    seed = _checked_seed(seed, saved)
    interrupt = InterruptRequest()
    checkpoint = None if folder is None else RunCheckpoint(folder, checkpoint_every_n_steps, interrupt)
    engine = _trainer(trainer, max_epochs, checkpoint)
    module_data = FitDataModule(data, batch_size, seed)
    settings = {"seed": seed, "lr": lr, "size": module_data.size, "processes": engine.world_size}
    settings |= {"lr_decay": lr_decay, "lr_decay_every": lr_decay_every, "batch_size": batch_size}
    _check_settings(saved, settings)
    example = _to_device_of(elbo, module_data.example())
    with isolated_random_state(seed, torch.device("cpu")):
        materialise(elbo, example, several_processes=engine.world_size > 1)
    module = FitModule(
        elbo,
        size=module_data.size,
        lr=lr,
        lr_decay=lr_decay,
        lr_decay_every=lr_decay_every,
        seed=seed,
        extra_losses=built.extra_losses,
        schedules=built.schedules,
        evaluate=built.evaluate,
        example=example,
    )
    if saved is not None:
        module.on_load_checkpoint(saved)
    return Run(module, module_data, engine, folder, resume, interrupt)


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def _open_folder(out: str | Path | None, resume: bool) -> tuple[RunFolder | None, dict[str, Any] | None]:
    if out is None:
        if resume:
            raise ValueError("resume=True needs out, the folder of the run to continue")
        return None, None
    folder = RunFolder(out)
    if resume:
        return folder, folder.load_checkpoint()
    if rank_zero_only.rank == 0:  # the other processes start when the first has begun to write
        folder.check_empty()
    return folder, None


def _checked_seed(seed: int | None, saved: Mapping[str, Any] | None) -> int:
    if seed is None:
        drawn = torch.randint(2**31 - 1, ()).item() if saved is None else saved["fit"]["settings"]["seed"]
        return int(drawn)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ValueError(f"seed must be an integer from 0 to 2**31 - 1, got {seed!r}")
    return seed


def _check_settings(saved: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
    for name, began in {} if saved is None else saved["fit"]["settings"].items():
        if settings[name] != began:
            raise ValueError(f"{name}={settings[name]}, but the run to resume began with {name}={began}; use the same")


def _trainer(flags: dict[str, Any], max_epochs: int, checkpoint: RunCheckpoint | None) -> Trainer:
    known = inspect.signature(Trainer).parameters
    for name in flags:
        if name in RESERVED:
            raise ValueError(f"{name} is set by fit itself; see its own arguments")
        if name not in known:
            raise ValueError(f"fit has no argument {name!r}, nor has lightning's Trainer a flag of that name")
    flags = {"logger": False, "enable_model_summary": False} | flags
    callbacks = flags.get("callbacks") or []
    callbacks = [callbacks] if not isinstance(callbacks, (list, tuple)) else [*callbacks]
    if flags.get("enable_progress_bar", True) and not any(isinstance(given, ProgressBar) for given in callbacks):
        callbacks.append(LossBar())
    if checkpoint is not None:
        callbacks.append(checkpoint)
    flags |= {"callbacks": callbacks, "enable_checkpointing": checkpoint is not None, "use_distributed_sampler": False}
    try:
        with _quiet():
            return Trainer(max_epochs=max_epochs, **flags)
    except MisconfigurationException as error:
        raise ValueError(f"the Trainer refuses its flags: {error}") from error


def _to_device_of(module: torch.nn.Module, batch: Any) -> Any:
    tensor = next((p for p in module.parameters()), None)
    if tensor is None or not isinstance(batch, (tuple, list)):
        return batch
    return tuple(part.to(tensor.device) if isinstance(part, torch.Tensor) else part for part in batch)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _BESIDE_THE_POINT:
            warnings.filterwarnings("ignore", f"(?s).*{message}")
        yield
