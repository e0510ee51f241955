"""The LightningModule that trains a model and its guide through an ELBO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from lightning.pytorch import LightningModule
from torch.optim import Adam, Optimizer

from pyro_ext.inference.fit.built import ExtraLoss
from pyro_ext.inference.fit.evaluation import held_out_metrics
from pyro_ext.inference.fit.local import LocalELBOModule, local_params, materialise
from pyro_ext.inference.fit.progress import Progress
from pyro_ext.utils.random_state import isolated_random_state, random_state, restore_random_state

__all__ = ["FitModule"]


class FitModule(LightningModule):
    """Trains the parameters of a :class:`LocalELBOModule` with Adam, on minus the bound per data point.

    A checkpoint holds all that an exact resume needs: the metrics so far, the sums of the epoch under way and the
    random states of every process. It also holds a batch, from which the parameters of a lazy guide can be made
    before loading, so that ``FitModule.load_from_checkpoint(path, elbo=..., weights_only=True)`` needs no data.

    Args:
        elbo: what to train.
        size: the number N of training points; the loss of a batch, already scaled to N, is divided by it.
        lr: Adam's learning rate.
        lr_decay: by what it is multiplied after every ``lr_decay_every`` steps, and so are those of extra losses.
        lr_decay_every: a number of steps.
        seed: the seed of the noise; the process of rank r starts from ``seed + r``.
        extra_losses: further losses with parameters and optimisers of their own, each stepped after the ELBO.
        schedules: called before each step with the number of steps taken.
        evaluate: maps a loader of held-out batches to named metrics.
        example: a batch, as the model is called with.

    Example:
        >>> model = lambda: pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> elbo = LocalELBOModule(model, guide, pyro.infer.Trace_ELBO())
        >>> materialise(elbo, ())
        >>> FitModule(elbo, lr=0.01).configure_optimizers().param_groups[0]["lr"]
        0.01
    """

    def __init__(
        self,
        elbo: LocalELBOModule,
        *,
        size: int = 1,
        lr: float = 1e-3,
        lr_decay: float = 1.0,
        lr_decay_every: int = 1,
        seed: int = 0,
        extra_losses: Sequence[ExtraLoss] = (),
        schedules: Sequence[Callable[[int], None]] = (),
        evaluate: Callable[..., Mapping[str, float]] | None = None,
        example: Any = None,
    ) -> None:
        super().__init__()
        self.elbo = elbo
        self.size = size
        self.lr = lr
        self.lr_decay = lr_decay
        self.lr_decay_every = lr_decay_every
        self.seed = seed
        self.evaluate = evaluate
        self.example = example
        self.extra_losses = list(extra_losses)
        self.schedules = list(schedules)
        self.automatic_optimization = not self.extra_losses
        self._extra_parameters = [list(extra.parameters) for extra in self.extra_losses]
        known = {id(parameter) for parameter in elbo.parameters()}
        # Parameters of an adversary outside the model: registered, so that they are moved, saved and synchronised.
        strangers = [p for group in self._extra_parameters for p in group if id(p) not in known]
        self.outside = torch.nn.ParameterList(strangers)
        self.progress = Progress()
        self.last_loss: torch.Tensor | None = None
        self._resumed: list[dict[str, Any]] | None = None

    @property
    def steps(self) -> int:
        """The number of steps taken on the ELBO."""
        # Lightning counts the steps of all optimisers together.
        return self.global_step // (1 + len(self.extra_losses))

    def setup(self, stage: str) -> None:
        """Give every process noise of its own, from a seed they agree on."""
        self.seed = self.trainer.strategy.broadcast(self.seed)
        pyro.set_rng_seed(self.seed + self.global_rank)

    def configure_optimizers(self) -> Any:
        """Return one Adam for the ELBO and one for each extra loss; no parameter belongs to two of them."""
        taken = {id(parameter) for group in self._extra_parameters for parameter in group}
        own = [p for p in self.elbo.parameters() if p.requires_grad and id(p) not in taken]
        if not self.extra_losses:
            return Adam(own, lr=self.lr)
        optimizers = [Adam(own, lr=self.lr)]
        for extra, parameters in zip(self.extra_losses, self._extra_parameters, strict=True):
            optimizers.append(Adam(parameters, lr=extra.lr))
        return optimizers

    def on_train_start(self) -> None:
        """Restore what belongs to this process alone, as the last thing before training."""
        if self._resumed is not None:
            own = self._resumed[self.global_rank]
            self.progress.load_epoch_state(own["epoch"], self.device)
            restore_random_state(own["random"], self.device)
            self._resumed = None

    def on_train_epoch_start(self) -> None:
        """Start the epoch's means."""
        self.progress.start_epoch()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set what depends on the number of steps alone, so that a resumed run has it right."""
        for schedule in self.schedules:
            schedule(self.steps)
        if self.lr_decay != 1:
            factor = self.lr_decay ** (self.steps // self.lr_decay_every)
            rates = [self.lr, *(extra.lr for extra in self.extra_losses)]
            for optimizer, rate in zip(self.trainer.optimizers, rates, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * factor

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return minus the bound per data point, a scalar; with extra losses, take all steps as well."""
        loss = self.elbo(*batch) / self.size
        losses = {"train_loss": loss}
        if self.extra_losses:
            losses |= self._take_steps(batch, loss)
        count = len(batch[0])
        self.progress.add(losses, count)
        self.last_loss = loss.detach()
        if self.trainer.loggers:  # costs a millisecond
            self.log("loss", self.last_loss, batch_size=count)
        return loss

    def _take_steps(self, batch: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        first, *others = self.optimizers()
        self._step(first, loss)
        losses = {}
        for extra, optimizer in zip(self.extra_losses, others, strict=True):
            with local_params():
                losses[f"train_{extra.name}"] = value = extra.loss(*batch)
            self._step(optimizer, value)
        return losses

    def _step(self, optimizer: Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()  # also of what the other losses left behind
        self.manual_backward(loss)
        optimizer.step()

    def on_train_epoch_end(self) -> None:
        """Complete the epoch's row of metrics."""
        row: dict[str, float] = {
            "epoch": self.current_epoch + 1,
            "step": self.steps,
            "seconds": self.progress.seconds(),
        }
        means = self.progress.means(lambda own: self.trainer.strategy.reduce(own, reduce_op="sum"))
        metrics = means | (self._held_out("valid") if self._evaluation_due() else {})
        self.progress.history.append(row | metrics)
        self.log_dict(metrics, prog_bar=True, sync_dist=True)

    def _evaluation_due(self) -> bool:
        every = self.trainer.check_val_every_n_epoch or 1
        epoch = self.current_epoch + 1
        return epoch % every == 0 or epoch == self.trainer.max_epochs

    def on_train_end(self) -> None:
        """Evaluate on the test data."""
        self.progress.test = self._held_out("test")

    def on_fit_end(self) -> None:
        """Evaluate on the test data where a run that was already complete has been resumed."""
        if not self.progress.test:
            self.progress.test = self._held_out("test")

    def _held_out(self, split: str) -> dict[str, float]:
        data = getattr(self.trainer, "datamodule", None)
        if self.evaluate is None or data is None:
            return {}
        return held_out_metrics(self, data, split, self.evaluate)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the metrics so far; they travel with the parameters."""
        return {"history": self.progress.history, "test": self.progress.test}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up metrics that :meth:`get_extra_state` returned."""
        self.progress.history = list(state["history"])
        self.progress.test = dict(state["test"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the settings of the run and what belongs to each process."""
        own = {"random": random_state(self.device), "epoch": self.progress.epoch_state()}
        ranks: list[Any] = [own]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            ranks = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(ranks, own)
        settings = {"seed": self.seed, "lr": self.lr, "size": self.size, "processes": len(ranks)}
        settings |= {"lr_decay": self.lr_decay, "lr_decay_every": self.lr_decay_every}
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            settings["batch_size"] = data.batch_size
        checkpoint["fit"] = {"settings": settings, "ranks": ranks, "example": self.example}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make lazy parameters, and check that what is to be loaded fits.

        Raises:
            ValueError: if the checkpoint holds other parameters than the model and the guide.
        """
        saved = checkpoint["fit"]
        self._resumed = saved["ranks"]
        if saved["example"] is not None and not checkpoint["state_dict"].keys() <= self.state_dict().keys():
            with isolated_random_state(self.seed, self.device):
                materialise(self.elbo, saved["example"])
        _check_fits(_shapes(checkpoint["state_dict"]), _shapes(self.state_dict()))


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


def _check_fits(saved: dict[str, tuple[int, ...]], own: dict[str, tuple[int, ...]]) -> None:
    differing = sorted(name for name in saved.keys() | own.keys() if saved.get(name) != own.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"the checkpoint does not fit this model: {name!r} has shape {saved.get(name)} there and {own.get(name)} "
            f"here ({len(differing)} of {len(saved)} differ); resume with the options the run began with"
        )
