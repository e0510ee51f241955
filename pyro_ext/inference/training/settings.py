"""How to train, as data: optimisers, learning-rate schedules, early stopping, and the settings of a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_ext.utils.checks import nonnegative_number, one_of, optional_positive_int, positive_int

__all__ = ["EarlyStopping", "FitSettings", "OptimizerSettings", "SchedulerSettings"]

NamedParameters = Iterable[tuple[str, torch.nn.Parameter]]


@dataclass(frozen=True, init=False)
class SchedulerSettings:
    """A learning-rate scheduler of PyTorch, by name.

    Args:
        name: a class in :mod:`torch.optim.lr_scheduler`, such as ``"StepLR"``, or the import path of another one.
        interval: whether the scheduler is stepped after each optimiser's step or after each epoch.
        **options: arguments of the class, without the optimiser.

    Raises:
        ValueError: if there is no such scheduler, or it has no such option.

    Example:
        >>> SchedulerSettings("StepLR", interval="step", step_size=20_000, gamma=0.75)
        SchedulerSettings(name='StepLR', interval='step', options={'step_size': 20000, 'gamma': 0.75})
    """

    name: str
    interval: Literal["step", "epoch"]
    options: Mapping[str, Any]

    def __init__(self, name: str, *, interval: Literal["step", "epoch"] = "epoch", **options: Any) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "interval", one_of("interval", interval, ("step", "epoch")))
        options = {**options.pop("options", {}), **options}  # as dataclasses.replace hands them over
        object.__setattr__(self, "options", options)
        _check_options("scheduler", self.kind, {**options, "optimizer": None})
        if self.follows_a_metric and interval == "step":
            raise ValueError(f"interval='step' does not go with {name}, which follows a metric of epochs; use 'epoch'")

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def kind(self) -> type[LRScheduler]:
        """The class."""
        return scheduler_class(self.name)

    @property
    def follows_a_metric(self) -> bool:
        """Whether the scheduler is told the held-out headline metric."""
        return issubclass(self.kind, ReduceLROnPlateau)

    def make(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Return the scheduler of an optimiser.

        Raises:
            ValueError: if the class refuses its options.
        """
        return _made("scheduler", self.name, self.kind, optimizer, **self.options)


@dataclass(frozen=True, init=False)
class OptimizerSettings:
    """An optimiser of PyTorch, by name.

    Args:
        name: a class in :mod:`torch.optim`, such as ``"AdamW"``, or the import path of another one.
        scheduler: how its learning rate changes; it stays as it is if None.
        groups: options for parameters whose names match a pattern with wildcards, as in
            ``{"*.bias": {"weight_decay": 0.0}}``; the first pattern that matches counts.
        **options: arguments of the class, without the parameters.

    Raises:
        ValueError: if there is no such optimiser, or it has no such option.

    Example:
        >>> settings = OptimizerSettings("SGD", lr=0.1, momentum=0.9)
        >>> settings.make([("weight", torch.nn.Parameter(torch.zeros(2)))]).defaults["lr"]
        0.1
    """

    name: str
    scheduler: SchedulerSettings | None
    groups: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any]

    def __init__(
        self,
        name: str = "Adam",
        *,
        scheduler: SchedulerSettings | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "scheduler", scheduler)
        object.__setattr__(self, "groups", {pattern: dict(given) for pattern, given in (groups or {}).items()})
        object.__setattr__(self, "options", {**options.pop("options", {}), **options})
        for given in (self.options, *self.groups.values()):
            _check_options("optimizer", self.kind, {**given, "params": None})

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def kind(self) -> type[torch.optim.Optimizer]:
        """The class."""
        return optimizer_class(self.name)

    @property
    def lr(self) -> float:
        """The learning rate at the beginning, outside of groups."""
        default = inspect.signature(self.kind).parameters["lr"].default
        return float(self.options.get("lr", default))

    def make(self, parameters: NamedParameters) -> torch.optim.Optimizer:
        """Return the optimiser of named parameters.

        Raises:
            ValueError: if a pattern matches no parameter, or the class refuses its options.
        """
        rest: list[torch.nn.Parameter] = []
        matched: dict[str, list[torch.nn.Parameter]] = {pattern: [] for pattern in self.groups}
        for name, parameter in parameters:
            pattern = next((pattern for pattern in matched if fnmatchcase(name, pattern)), None)
            (rest if pattern is None else matched[pattern]).append(parameter)
        for pattern, members in matched.items():
            if not members:
                raise ValueError(f"groups: no parameter has a name like {pattern!r}; name parameters that there are")
        groups = [{"params": members, **self.groups[pattern]} for pattern, members in matched.items()]
        return _made("optimizer", self.name, self.kind, [{"params": rest}, *groups] if rest else groups, **self.options)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain data, by which those of an interrupted run are compared."""
        return asdict(self)


@dataclass(frozen=True)
class EarlyStopping:
    """Ends training once a held-out metric no longer improves.

    Args:
        patience: the number of evaluations without improvement after which training ends.
        min_delta: the least change that counts as an improvement; with a ``window`` it must be 0.
        monitor: the metric to follow; the headline metric of the training plan if None.
        mode: whether small or large values of ``monitor`` are good; that of the headline metric if None.
        window: the number of earlier evaluations with whose mean each evaluation is compared: it is without
            improvement if it is worse than that mean, or not a number, and the first ``window + 1`` evaluations never
            are. If None, evaluations are compared with the best one. With 10 and a patience of 1 it is the
            rule of the published program of graph convolutional networks.

    Raises:
        ValueError: if a number is out of range, ``mode`` is neither ``"min"`` nor ``"max"``, or there is both a
            ``window`` and a ``min_delta``.
    """

    patience: int = 3
    min_delta: float = 0.0
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        positive_int("patience", self.patience)
        optional_positive_int("window", self.window)
        nonnegative_number("min_delta", self.min_delta)
        one_of("mode", self.mode, (None, "min", "max"))
        if self.window is not None and self.min_delta:
            raise ValueError(
                f"min_delta must be 0 with a window, got {self.min_delta!r}: a value is compared with the mean of "
                "those before it; leave one of the two out"
            )


@dataclass(frozen=True)
class FitSettings:
    """The settings of a run, whatever is trained.

    Args:
        max_epochs: the number of epochs, those before a resume included.
        batch_size: the number of data points per step and process.
        seed: repeats a run: initial values, order of the data and noise depend on it; drawn and noted if None.
        scheduler: how learning rates change, for optimisers without a scheduler of their own.
        early_stopping: when to end before ``max_epochs``; never if None.
        checkpoint_every_n_steps: write checkpoints after each so many steps, besides those after each epoch.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> FitSettings(max_epochs=0)
        Traceback (most recent call last):
            ...
        ValueError: max_epochs must be an integer of at least 1, got 0
    """

    max_epochs: int = 20
    batch_size: int = 100
    seed: int | None = None
    scheduler: SchedulerSettings | None = None
    early_stopping: EarlyStopping | None = None
    checkpoint_every_n_steps: int | None = None

    def __post_init__(self) -> None:
        positive_int("max_epochs", self.max_epochs)
        positive_int("batch_size", self.batch_size)
        optional_positive_int("checkpoint_every_n_steps", self.checkpoint_every_n_steps)
        for name, kind in (("scheduler", SchedulerSettings), ("early_stopping", EarlyStopping)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"{name} must be {kind.__name__} or None, got {value!r}")
        if self.seed is not None:
            positive_int("seed", self.seed, minimum=0, maximum=2**31 - 1)


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Return the optimiser of a name in :mod:`torch.optim`, or of an import path.

    Raises:
        ValueError: if there is none.
    """
    return _class("optimizer", name, torch.optim, torch.optim.Optimizer)


def scheduler_class(name: str) -> type[LRScheduler]:
    """Return the learning-rate scheduler of a name in :mod:`torch.optim.lr_scheduler`, or of an import path.

    Raises:
        ValueError: if there is none.
    """
    return _class("scheduler", name, torch.optim.lr_scheduler, LRScheduler)


def _class(argument: str, name: str, home: Any, base: type) -> Any:
    """Return the class called ``name`` in the module ``home``, or at an import path.

    Raises:
        ValueError: if there is none, or it is not derived from ``base``.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"{argument} must be the name of a class in {home.__name__}, got {name!r}")
    module, _, last = name.rpartition(".")
    try:
        kind = getattr(import_module(module) if module else home, last, None)
    except ImportError as error:
        raise ValueError(f"{argument}: {name!r} cannot be imported: {error}") from error
    if not isinstance(kind, type) or not issubclass(kind, base) or kind is base:
        known = ", ".join(sorted(_subclasses(home, base)))
        raise ValueError(f"{argument} must be an import path or one of {known}; got {name!r}")
    return kind


def _subclasses(home: Any, base: type) -> list[str]:
    members = vars(home).items()
    return [
        name
        for name, kind in members
        if isinstance(kind, type) and issubclass(kind, base) and kind is not base and not name.startswith("_")
    ]


def _check_options(argument: str, kind: type, options: Mapping[str, Any]) -> None:
    known = inspect.signature(kind).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in options:
        if name not in known:
            own = ", ".join(name for name in known if name not in ("params", "optimizer"))
            raise ValueError(f"{argument}: {kind.__name__} has no option {name!r}; it has {own}")


def _made(argument: str, name: str, kind: Any, first: Any, **options: Any) -> Any:
    try:
        return kind(first, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}: {name} refuses its options: {error}") from error
