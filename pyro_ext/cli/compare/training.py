"""Training for ``pyro-ext compare``: the weights to measure at, and what each estimator makes of fresh ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from pyro.infer import ELBO

from pyro_ext.datasets import as_splits
from pyro_ext.inference.compare import Subject
from pyro_ext.inference.training import (
    ELBOObjective,
    FitResult,
    FitSettings,
    FitWarning,
    OptimizerSettings,
    TrainingPlan,
    local_params,
    prepare,
)

__all__ = ["Setting", "load_weights"]

_ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}


@dataclass(frozen=True)
class Setting:
    """Which model is trained on which data, and how.

    Args:
        make: builds the training plan.
        data: the data.
        lr: the learning rate of the player that maximises the bound; that of its own optimiser if None.
        batch_size: the number of data points per step.
        seed: the seed of initial weights, shuffling and noise.
        device: where to train.
    """

    make: Callable[[], TrainingPlan]
    data: Any
    lr: float | None
    batch_size: int
    seed: int
    device: torch.device

    def build(self) -> TrainingPlan:
        """Return the plan with fresh weights, which depend on the seed alone.

        Raises:
            ValueError: if the plan has no ELBO or several, or its optimiser takes no learning rate.
        """
        pyro.set_rng_seed(self.seed)
        with local_params():
            plan = self.make()
        objective = plan.elbo_objective("compare")
        if self.lr is None:
            return plan
        player = next(player for player in plan.players if any(part is objective for part in player.objective.parts()))
        before = player.optimizer
        options = {**before.options, "lr": self.lr}
        settings = OptimizerSettings(before.name, scheduler=before.scheduler, groups=before.groups, **options)
        return plan.with_optimizer(settings, player.name)

    def metric(self, plan: TrainingPlan) -> str:
        """Return the name of the held-out metric that training comes to; empty if there is none."""
        return plan.headline if plan.evaluate is not None and as_splits(self.data).valid is not None else ""

    def subject(self, plan: TrainingPlan) -> Subject:
        """Return the model and its guide with the batch to measure gradients on, all moved to the device.

        Raises:
            ValueError: if the batch size or the seed is out of range, or the plan does not fit the data.
        """
        module = prepare(plan, self.data, self._settings(1), **self._flags()).module.to(self.device).train()
        batch = move_data_to_device(module.example, self.device)
        objective = plan.elbo_objective("compare")
        arguments = batch if isinstance(batch, tuple | list) else (batch,)
        return Subject(objective.model, objective.guide, arguments, objective.size or objective.num_data or 1)

    def train(
        self,
        plan: TrainingPlan,
        elbo: ELBO,
        epochs: int,
        bar: Any,
        out: Path | None = None,
        until: Callable[[int], bool] | None = None,
    ) -> FitResult:
        """Train, and evaluate after the last epoch.

        Args:
            plan: what to train.
            elbo: the estimator to train by.
            epochs: the number of epochs.
            bar: a progress bar; it is advanced by one with each epoch.
            out: a folder for the checkpoint.
            until: called with the number of epochs after each; training ends as soon as it returns True.

        Raises:
            KeyboardInterrupt: on Ctrl-C; ``out`` then holds a checkpoint.
        """
        flags = self._flags() | {"check_val_every_n_epoch": epochs, "callbacks": [_Advance(bar, until)]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)  # told in the report
            return prepare(plan.with_elbo(elbo), self.data, self._settings(epochs), out=out, **flags).train()

    def _settings(self, epochs: int) -> FitSettings:
        return FitSettings(max_epochs=epochs, batch_size=self.batch_size, seed=self.seed)

    def _flags(self) -> dict[str, Any]:
        kind, index = self.device.type, self.device.index
        return {
            "enable_progress_bar": False,
            "accelerator": _ACCELERATORS.get(kind, kind),
            "devices": [index or 0] if kind == "cuda" else 1,
        }


class _Advance(Callback):
    """Advances a progress bar with each epoch, and ends training when there is enough of it."""

    def __init__(self, bar: Any, until: Callable[[int], bool] | None) -> None:
        self.bar, self.until = bar, until

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show another epoch."""
        self.bar.update()
        if self.until is not None and self.until(trainer.current_epoch + 1):
            trainer.should_stop = True


def load_weights(plan: TrainingPlan, state: Mapping[str, torch.Tensor]) -> None:
    """Load parameters and buffers into the model and the guide of a plan, whose lazy parameters have been made.

    Args:
        plan: a plan with one ELBO.
        state: the ``state_dict`` of a checkpoint of a plan of the same model, trained by any ELBO.

    Raises:
        ValueError: if they do not fit.
    """
    objective = plan.elbo_objective("compare")
    prefix = _prefix(plan, objective)
    saved = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    saved = {name: value for name, value in saved.items() if _is_weight(name)}
    own = {name: value for name, value in objective.module.state_dict().items() if _is_weight(name)}
    differing = sorted(name for name in own.keys() | saved.keys() if _shape(own, name) != _shape(saved, name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"--checkpoint: the weights do not fit this model: {name!r} has shape {_shape(saved, name)} there and "
            f"{_shape(own, name)} here ({len(differing)} differ); give the options the run began with"
        )
    objective.module.load_state_dict(saved, strict=False)  # what the ELBO itself may hold stays as it is


def _prefix(plan: TrainingPlan, objective: ELBOObjective) -> str:
    """Return what the names of an objective's weights begin with in a checkpoint."""
    return next(
        f"objectives.{player.name}.{name}."
        for player in plan.players
        for name, module in player.objective.named_modules()
        if module is objective.module
    )


def _is_weight(name: str) -> bool:
    return name.startswith(("model.", "guide."))


def _shape(state: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None
