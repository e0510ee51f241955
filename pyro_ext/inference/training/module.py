"""The LightningModule that lets the players of a plan take their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyro_ext.inference.training.metrics import Progress, evaluation_mode, loss_names, num_rows
from pyro_ext.inference.training.objectives import Losses, Objective
from pyro_ext.inference.training.plan import Player, TrainingPlan
from pyro_ext.inference.training.resuming import check_fits
from pyro_ext.inference.training.settings import FitSettings, SchedulerSettings
from pyro_ext.utils.random_state import (
    isolated_random_state,
    mixed_seed,
    random_state,
    restore_random_state,
    seed_all,
)

__all__ = ["FitModule", "Window"]

_NEVER = 2**62  # epochs
_EVALUATION_STREAM = 1_000_003  # sets the noise of evaluation apart from that of training


class Window:
    """What the Trainer does for one optimiser and refuses for several: accumulation and clipping of gradients.

    Args:
        accumulate: the number of batches whose gradients make a step.
        clip: the value at which gradients are clipped; never if None.
        clip_algorithm: ``"norm"`` or ``"value"``.
    """

    def __init__(self, accumulate: int = 1, clip: float | None = None, clip_algorithm: str | None = None) -> None:
        self.accumulate = accumulate
        self.clip = clip
        self.clip_algorithm = clip_algorithm


class FitModule(LightningModule):
    """Trains the players of a plan: one under Lightning's automatic optimisation, several step by step.

    A checkpoint holds all that an exact resume needs: the metrics so far, the sums of the epoch under way and the
    random states of every process. It also holds a batch, from which the parameters of a lazy guide can be made
    before loading.

    Args:
        plan: what to train, with its lazy parameters made.
        settings: how, with a seed.
        described: all settings that a run must be resumed with, as plain data.
        example: a batch, as objectives are called with.
        window: accumulation and clipping of gradients where there are several players.

    Raises:
        ValueError: if a player has nothing to train.

    Example:
        >>> from pyro_ext.inference.training import LossObjective
        >>> loss = LossObjective(lambda x, network: network(x).square().mean(), network=torch.nn.Linear(1, 1))
        >>> module = FitModule(TrainingPlan([Player("network", loss)]), FitSettings(seed=0), {}, None)
        >>> [[*parameters] for parameters in module.trained]
        [['modules_by_name.network.weight', 'modules_by_name.network.bias']]
    """

    def __init__(
        self,
        plan: TrainingPlan,
        settings: FitSettings,
        described: Mapping[str, Any],
        example: Any,
        window: Window | None = None,
    ) -> None:
        super().__init__()
        assert settings.seed is not None
        self.plan = plan
        self.settings = settings
        self.seed: int = settings.seed
        self.described = dict(described)
        self.example = example
        self.window = window or Window()
        self.objectives = torch.nn.ModuleDict({player.name: player.objective for player in plan.players})
        self.trained = [player.named_parameters(_others(plan, player)) for player in plan.players]
        for player, parameters in zip(plan.players, self.trained, strict=True):
            if not parameters:
                raise ValueError(
                    f"player {player.name!r} has no parameters to train; give its modules PyroParam or nn.Parameter "
                    "attributes that require gradients and belong to no other player"
                )
        known = {id(parameter) for parameter in self.objectives.parameters()}
        strangers = [p for group in self.trained for p in group.values() if id(p) not in known]
        # Parameters named by a player but not part of any objective: registered, so that they are moved and saved.
        self.outside = torch.nn.ParameterList(strangers)
        self.automatic_optimization = len(plan.players) == 1
        self.progress = Progress()
        self.last_losses: dict[str, torch.Tensor] = {}
        self._steps = 0  # of several players
        self._accumulated = 0  # batches whose gradients wait for the next step
        self._resumed: list[dict[str, Any]] | None = None

    @property
    def steps(self) -> int:
        """The number of steps taken, each of which is one of every player whose turn it was."""
        return self.global_step if self.automatic_optimization else self._steps

    # Set-up

    def setup(self, stage: str) -> None:
        """Give every process noise of its own, from a seed they agree on."""
        self.seed = self.trainer.strategy.broadcast(self.seed)
        seed_all(self.seed + self.global_rank)

    def configure_optimizers(self) -> Any:
        """Return the optimiser and the learning-rate scheduler of every player."""
        optimizers, schedulers = [], []
        for player, parameters in zip(self.plan.players, self.trained, strict=True):
            optimizer = player.optimizer.make(parameters.items())
            optimizers.append(optimizer)
            scheduler = self._scheduler_of(player)
            if scheduler is not None:
                schedulers.append(self._scheduling(scheduler, optimizer))
        return optimizers, schedulers

    def check_optimizers(self) -> None:
        """Make all optimisers and schedulers once, to see that they take their options.

        Raises:
            ValueError: if one does not, or a scheduler follows a metric that the plan does not have.
        """
        for player, parameters in zip(self.plan.players, self.trained, strict=True):
            optimizer, scheduler = player.optimizer.make(parameters.items()), self._scheduler_of(player)
            if scheduler is not None:
                scheduler.make(optimizer)
                if scheduler.follows_a_metric and not (self.plan.headline and self.plan.evaluate):
                    raise ValueError(
                        f"scheduler {scheduler.name} follows the headline metric, and this plan has none; choose "
                        "another scheduler"
                    )

    def _scheduler_of(self, player: Player) -> SchedulerSettings | None:
        return player.optimizer.scheduler or self.settings.scheduler

    def _scheduling(self, scheduler: SchedulerSettings, optimizer: Optimizer) -> dict[str, Any]:
        config: dict[str, Any] = {"scheduler": scheduler.make(optimizer), "interval": scheduler.interval}
        if scheduler.follows_a_metric and self.automatic_optimization:
            # Stepped here instead: Lightning leaves it out at the end of an epoch that was resumed in the middle.
            config |= {"monitor": self.plan.headline, "frequency": _NEVER}
        return config

    # Training

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
        for schedule in self.plan.schedules:
            schedule(self.steps)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:
        """Return the loss of the only player; where there are several, let each take its step."""
        if self.automatic_optimization:
            (player,) = self.plan.players
            losses = self._losses(player, batch)
            self._note({player.name: losses}, num_rows(batch))
            return losses.total
        self._take_steps(batch)
        return None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step of the only player, then let its objective update what it adapts."""
        super().optimizer_step(*args, **kwargs)
        self._after_step(self.plan.players[0])

    def _losses(self, player: Player, batch: Any) -> Losses:
        losses = self.objectives[player.name](*_as_arguments(batch))
        if losses.total.dim() != 0:
            shape = tuple(losses.total.shape)
            raise ValueError(f"objective of player {player.name!r} must return a scalar total, got shape {shape}")
        for name, term in losses.terms.items():
            if not isinstance(term, torch.Tensor) or term.dim() != 0:
                raise ValueError(f"term {name!r} of player {player.name!r} must be a scalar tensor, got {term!r}")
        return losses

    def _note(self, losses: Mapping[str, Losses], count: int) -> None:
        alone = len(self.plan.players) == 1
        values: dict[str, torch.Tensor] = {}
        for name, (total, terms) in losses.items():
            columns = loss_names(name, terms, alone)
            for term, value in {"": total, **terms}.items():
                if columns[term] in values:
                    raise ValueError(
                        f"two losses would be noted as {columns[term]!r}; give the term {term!r} of player {name!r} "
                        "another name"
                    )
                values[columns[term]] = value
        self.progress.add(values, count)
        self.last_losses |= {"loss" if alone else name: each.total.detach() for name, each in losses.items()}
        if self.trainer.loggers:  # costs a millisecond
            self.log_dict(self.last_losses, batch_size=count)

    def _take_steps(self, batch: Any) -> None:
        """Let the players whose turn it is take a step, or add to the gradients of the step to come."""
        first = self._accumulated == 0
        self._accumulated += 1
        last = self._accumulated == self.window.accumulate or self.trainer.is_last_batch
        noted: dict[str, Losses] = {}
        for at, player in enumerate(self.plan.players):
            if self._steps % player.every == 0:
                with self._only(at):
                    noted[player.name] = self._take_step(at, batch, first, last)
        if last:
            self._accumulated = 0
            self._steps += 1
        self._note(noted, num_rows(batch))

    def _take_step(self, at: int, batch: Any, first: bool, last: bool) -> Losses:
        player, optimizer = self.plan.players[at], self._optimizer(at)
        latest: list[Losses] = []

        def gradients() -> torch.Tensor:
            if first:
                optimizer.zero_grad()
            losses = self._losses(player, batch)
            self.manual_backward(losses.total / self.window.accumulate)
            if last and self.window.clip is not None:
                self.clip_gradients(optimizer.optimizer, self.window.clip, self.window.clip_algorithm or "norm")
            latest.append(losses)
            return losses.total.detach()

        if not last:
            gradients()
        else:
            optimizer.step(closure=gradients)
            self._step_scheduler(at)
            self._after_step(player)
        return latest[0]

    def _optimizer(self, at: int) -> Any:
        optimizers = self.optimizers()
        return optimizers[at] if isinstance(optimizers, list) else optimizers

    @contextmanager
    def _only(self, at: int) -> Iterator[None]:
        """Let no parameters but one player's require gradients, so that no others are computed or left behind."""
        own = {id(parameter) for parameter in self.trained[at].values()}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in own]
        try:
            for parameter in others:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _step_scheduler(self, at: int) -> None:
        config = self._scheduler_config(at)
        if config is not None and config.interval == "step":
            config.scheduler.step()

    def _scheduler_config(self, at: int) -> Any:
        optimizer = self.trainer.optimizers[at]
        return next((c for c in self.trainer.lr_scheduler_configs if c.scheduler.optimizer is optimizer), None)

    @torch.no_grad()
    def _after_step(self, player: Player) -> None:
        objective = self.objectives[player.name]
        assert isinstance(objective, Objective)
        objective.after_step()

    # Metrics

    def on_train_epoch_end(self) -> None:
        """Complete the epoch's row of metrics, and step the schedulers of several players."""
        row: dict[str, float] = {
            "epoch": self.current_epoch + 1,
            "step": self.steps,
            "seconds": self.progress.seconds(),
        }
        means = self.progress.means(
            lambda own: self.trainer.strategy.reduce(own, reduce_op="sum"), self._names_everywhere(), self.device
        )
        held_out = self.held_out("valid") if self.evaluation_due() else {}
        taken = sorted({*held_out} & {*means, *row})
        if taken:
            raise ValueError(f"evaluate must not return {taken[0]!r}, the name of another column; choose another name")
        metrics = means | held_out
        self.progress.history.append(row | metrics)
        self.log_dict(metrics, prog_bar=True, sync_dist=True)
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                if self.plan.headline in metrics:
                    config.scheduler.step(metrics[self.plan.headline])
            elif config.interval == "epoch" and not self.automatic_optimization:
                config.scheduler.step()

    def _names_everywhere(self) -> list[str]:
        """Return the names of the losses of all processes, in one order."""
        own = self.progress.names()
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return own
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, own)
        return list(dict.fromkeys(name for names in gathered for name in names))

    def evaluation_due(self) -> bool:
        """Return whether held-out data are evaluated at the end of this epoch."""
        every = self.trainer.check_val_every_n_epoch or 1
        epoch = self.current_epoch + 1
        return epoch % every == 0 or epoch == self.trainer.max_epochs

    def on_train_end(self) -> None:
        """Evaluate on the test data."""
        self.progress.test = self.held_out("test")

    def on_fit_end(self) -> None:
        """Evaluate on the test data where a run that was already complete has been resumed."""
        if not self.progress.test:
            self.progress.test = self.held_out("test")

    def held_out(self, split: str) -> dict[str, float]:
        """Evaluate on held-out data, with the same noise at every call and without a draw from the training's noise.

        Under several processes each one evaluates all the data: none has to wait for another.

        Args:
            split: ``"valid"`` or ``"test"``.

        Raises:
            ValueError: if the headline metric is not among the metrics.
        """
        data = getattr(self.trainer, "datamodule", None)
        if self.plan.evaluate is None or data is None:
            return {}
        precision = self.trainer.precision_plugin

        def convert(batch: Any) -> Any:
            return precision.convert_input(self.transfer_batch_to_device(batch, self.device, 0))

        loader = data.held_out(split, convert)
        if loader is None:
            return {}
        noise = isolated_random_state(mixed_seed(self.seed, _EVALUATION_STREAM), self.device)
        with noise, evaluation_mode(self), precision.forward_context():
            returned = self.plan.evaluate(loader)
        if not isinstance(returned, Mapping):
            raise ValueError(f"evaluate must return metrics by name, got {returned!r}")
        metrics = {name: float(value) for name, value in returned.items()}
        if self.plan.headline and self.plan.headline not in metrics:
            raise ValueError(
                f"evaluate must return the headline metric {self.plan.headline!r}, it returned {', '.join(metrics)}"
            )
        return metrics

    # Checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """Return the metrics so far; they travel with the parameters."""
        return {"history": self.progress.history, "test": self.progress.test, "steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up metrics that :meth:`get_extra_state` returned."""
        self.progress.history = list(state["history"])
        self.progress.test = dict(state["test"])
        self._steps = state["steps"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the settings of the run and what belongs to each process."""
        own = {"random": random_state(self.device), "epoch": self.progress.epoch_state()}
        ranks: list[Any] = [own]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            ranks = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(ranks, own)
        settings = self.described | {"seed": self.seed, "processes": len(ranks)}
        origin = None if self.plan.origin is None else asdict(self.plan.origin)
        checkpoint["fit"] = {"settings": settings, "ranks": ranks, "example": self.example, "origin": origin}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that what is to be loaded fits, and keep what is restored later.

        Raises:
            ValueError: if the checkpoint holds other parameters than the objectives.
        """
        self._resumed = checkpoint["fit"]["ranks"]
        check_fits(checkpoint["state_dict"], self.state_dict())


def _others(plan: TrainingPlan, player: Player) -> list[Player]:
    return [other for other in plan.players if other is not player]


def _as_arguments(batch: Any) -> Sequence[Any]:
    return batch if isinstance(batch, tuple | list) else (batch,)
