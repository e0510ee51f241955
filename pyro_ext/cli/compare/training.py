"""Training for ``pyro-ext compare``: the weights to measure at, and what each estimator makes of fresh ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from pyro.infer import ELBO
from tqdm.auto import tqdm

from pyro_ext.datasets import Splits
from pyro_ext.inference.compare import Subject
from pyro_ext.inference.fit import Built, FitResult, LocalELBOModule, local_params, prepare
from pyro_ext.inference.fit.folder import RunFolder, write_atomically

__all__ = ["Setting", "load_weights", "saved_weights"]

_ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}


@dataclass(frozen=True)
class Setting:
    """Which model is trained on which data, and how.

    Args:
        make: builds the model for the data.
        data: the data.
        lr: Adam's learning rate.
        batch_size: data points per step.
        seed: of initial weights, shuffling and noise.
        device: where to train.
    """

    make: Callable[[Splits], Built]
    data: Splits
    lr: float
    batch_size: int
    seed: int
    device: torch.device

    def build(self) -> Built:
        """Return the model with fresh weights, which depend on the seed alone."""
        pyro.set_rng_seed(self.seed)
        with local_params():
            return self.make(self.data)

    def subject(self, built: Built) -> Subject:
        """Return the model with the batch to measure gradients on, both moved to the device.

        Raises:
            ValueError: if the learning rate, the batch size or the seed is out of range.
        """
        checked = prepare(built, self.data, max_epochs=1, **self._flags())
        module = checked.module.to(self.device).train()
        batch = [part.to(self.device) if isinstance(part, torch.Tensor) else part for part in module.example]
        return Subject(built.model, built.guide, batch, module.size)

    def train(
        self, built: Built, elbo: ELBO, epochs: int, bar: tqdm, out: Path | None = None, config: str = ""
    ) -> FitResult:
        """Train, and evaluate after the last epoch.

        Args:
            built: what to train.
            elbo: by which estimator.
            epochs: how long.
            bar: goes on by one with each epoch.
            out: a folder for the checkpoint.
            config: options to note in it.

        Raises:
            KeyboardInterrupt: on Ctrl-C; ``out`` then holds a checkpoint.
        """
        built.elbo = elbo
        flags = self._flags() | {"check_val_every_n_epoch": epochs, "callbacks": [_Follow(bar, out, config)]}
        return prepare(built, self.data, max_epochs=epochs, out=out, **flags).train()

    def _flags(self) -> dict[str, Any]:
        kind, index = self.device.type, self.device.index
        return {
            "lr": self.lr,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "enable_progress_bar": False,
            "accelerator": _ACCELERATORS.get(kind, kind),
            "devices": [index or 0] if kind == "cuda" else 1,
        }


class _Follow(Callback):
    """Notes the options of a run at its start, and shows its epochs as they go by."""

    def __init__(self, bar: tqdm, out: Path | None, config: str) -> None:
        self.bar, self.out, self.config = bar, out, config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the options, from which the model of a checkpoint can be built again."""
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomically(self.out / "config.yaml", self.config)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show another epoch."""
        self.bar.update()


def saved_weights(path: str) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of model and guide in the folder of a run, by name, on the CPU.

    Raises:
        ValueError: if there is no checkpoint, or it was not written by ``fit``.
    """
    folder = RunFolder(path)
    if not folder.checkpoint.is_file():
        raise ValueError(f"--checkpoint: {str(folder.checkpoint)!r} does not exist; name the folder of a run")
    state = folder.load_checkpoint()["state_dict"]
    own = {name.removeprefix("elbo."): value for name, value in state.items() if name.startswith("elbo.")}
    return {name: value for name, value in own.items() if _is_weight(name)}


def load_weights(built: Built, weights: dict[str, torch.Tensor]) -> None:
    """Load parameters and buffers into a model and its guide, whose lazy parameters have been made.

    Raises:
        ValueError: if they do not fit.
    """
    module = LocalELBOModule(built.model, built.guide, built.elbo)
    own = {name: value for name, value in module.state_dict().items() if _is_weight(name)}
    differing = sorted(name for name in own.keys() | weights.keys() if _shape(own, name) != _shape(weights, name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"--checkpoint: the weights do not fit this model: {name!r} has shape {_shape(weights, name)} there and "
            f"{_shape(own, name)} here ({len(differing)} differ); give the options the run began with"
        )
    module.load_state_dict(weights, strict=False)  # what the ELBO itself may hold stays as it is


def _is_weight(name: str) -> bool:
    return name.startswith(("model.", "guide."))


def _shape(state: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None
