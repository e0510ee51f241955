"""What a model's ``build`` returns: who minimises what with which parameters, how it is evaluated and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pyro.infer import ELBO
from torch import nn

from pyro_ext.inference.training.local import check_elbo
from pyro_ext.inference.training.objectives import ELBOObjective, Objective, check_name
from pyro_ext.inference.training.settings import OptimizerSettings
from pyro_ext.utils.checks import one_of, positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.utils.data import DataLoader

__all__ = ["Origin", "Player", "TrainingPlan"]


@dataclass(frozen=True)
class Origin:
    """Where a plan and its data come from, as plain data, so that a run can be built again from its checkpoint.

    Args:
        build: the function that built the plan, as ``"package.module:function"``.
        options: its arguments besides the data.
        load: the function that loaded the data, written in the same way.
        data_options: its arguments.
    """

    build: str
    options: Mapping[str, Any]
    load: str
    data_options: Mapping[str, Any]


@dataclass
class Player:
    """An objective, the parameters that minimise it, and their optimiser.

    Args:
        name: what metrics and settings call the player.
        objective: what it minimises.
        parameters: what its optimiser changes; if None, those of the objective that no other player owns.
        optimizer: which optimiser, with which options.
        every: the player takes a step every so many steps of the run, the first one included.

    Raises:
        ValueError: if the name is no identifier, ``objective`` is none, or ``every`` is not a positive integer.
    """

    name: str
    objective: Objective
    parameters: Iterable[nn.Parameter] | None = None
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings("Adam", lr=1e-3))
    every: int = 1

    def __post_init__(self) -> None:
        check_name("name of a player", self.name)
        if not isinstance(self.objective, Objective):
            raise ValueError(
                f"objective of player {self.name!r} must be an Objective such as ELBOObjective or LossObjective, "
                f"got {self.objective!r}"
            )
        if not isinstance(self.optimizer, OptimizerSettings):
            raise ValueError(
                f"optimizer of player {self.name!r} must be OptimizerSettings such as OptimizerSettings('Adam', "
                f"lr=1e-3), got {self.optimizer!r}"
            )
        positive_int("every", self.every)
        if self.parameters is not None:
            self.parameters = list(self.parameters)

    def named_parameters(self, others: Iterable[Player] = ()) -> dict[str, nn.Parameter]:
        """Return the parameters that this player trains, by name.

        Args:
            others: the other players, whose own parameters are left to them where this one names none.
        """
        own = {name: parameter for name, parameter in self.objective.named_parameters() if parameter.requires_grad}
        if self.parameters is None:
            taken = {id(parameter) for player in others for parameter in player.parameters or ()}
            return {name: parameter for name, parameter in own.items() if id(parameter) not in taken}
        names = {id(parameter): name for name, parameter in own.items()}
        return {names.get(id(parameter), f"parameter{at}"): parameter for at, parameter in enumerate(self.parameters)}


@dataclass
class TrainingPlan:
    """What is trained, evaluated, drawn and written.

    Args:
        players: who minimises what; in each step they take theirs in this order.
        evaluate: maps a loader of held-out batches to named metrics.
        headline: the metric by which runs are compared, training is stopped early, and learning rates follow.
        headline_mode: whether small or large values of the headline metric are good.
        plots: named functions, each taking ``ax=None`` and returning the axes it drew on.
        curves: named plots of metrics, given by the metrics' names, against epochs.
        curve_labels: what is written at the y axis of a curve, by its name; "nats" where nothing is given.
        files: named functions; each writes the file of that name at the path it is given.
        schedules: functions that set what changes in the course of training; each is called before every step with
            the number of steps taken so far, those before a resume included.
        diagnose: maps the final metrics to warnings for the user, such as that the latent code has collapsed.
        remarks: what a reader of the metrics should know.
        origin: where plan and data come from, if the command line or the like has built them.

    Raises:
        ValueError: if there are no players, two have one name, or two leave their parameters open.

    Example:
        >>> model = lambda: pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> plan = TrainingPlan.of(model, guide, pyro.infer.Trace_ELBO(), optimizer=OptimizerSettings("SGD", lr=0.1))
        >>> [player.name for player in plan.players]
        ['model']
    """

    players: list[Player]
    evaluate: Callable[[DataLoader[Any]], Mapping[str, float]] | None = None
    headline: str = ""
    headline_mode: Literal["min", "max"] = "min"
    plots: dict[str, Callable[..., Axes]] = field(default_factory=dict)
    curves: dict[str, tuple[str, ...]] = field(default_factory=dict)
    curve_labels: dict[str, str] = field(default_factory=dict)
    files: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    schedules: list[Callable[[int], None]] = field(default_factory=list)
    diagnose: Callable[[Mapping[str, float]], Sequence[str]] | None = None
    remarks: str = ""
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.players, list | tuple):
            raise ValueError(f"players must be a list of Player objects, got {self.players!r}")
        self.players = [*self.players]
        if not self.players:
            raise ValueError("players must hold at least one player, got none")
        for player in self.players:
            if not isinstance(player, Player):
                raise ValueError(f"players must hold Player objects, got {player!r}")
        names = [player.name for player in self.players]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two players are called {name!r}; give each a name of its own")
        one_of("headline_mode", self.headline_mode, ("min", "max"))
        if not isinstance(self.headline, str):
            raise ValueError(f"headline must be the name of a metric, got {self.headline!r}")
        functions = {"evaluate": [self.evaluate], "diagnose": [self.diagnose], "schedules": self.schedules}
        functions |= {name: getattr(self, name) for name in ("plots", "files")}
        for name, members in functions.items():
            if not isinstance(members, list | tuple | Mapping):
                raise ValueError(f"{name} must hold functions, got {members!r}")
            for member in members.values() if isinstance(members, Mapping) else members:
                if member is not None and not callable(member):
                    raise ValueError(f"{name} must be functions, got {member!r}")
        self._check_ownership()

    @classmethod
    def of(
        cls,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        elbo: ELBO,
        *,
        optimizer: OptimizerSettings | None = None,
        **rest: Any,
    ) -> TrainingPlan:
        """Return the usual plan: one player, ``model``, that maximises the bound of a model and a guide.

        Args:
            model: called as ``model(*batch)``.
            guide: called like the model.
            elbo: any ELBO of Pyro or of this package.
            optimizer: which optimiser; Adam with a learning rate of 1e-3 if None.
            **rest: further fields of the plan.
        """
        settings = OptimizerSettings("Adam", lr=1e-3) if optimizer is None else optimizer
        return cls([Player("model", ELBOObjective(model, guide, elbo), optimizer=settings)], **rest)

    @property
    def elbo_objectives(self) -> list[ELBOObjective]:
        """The ELBO objectives of all players, those inside of sums included."""
        parts = [part for player in self.players for part in self.elbo_objectives_of(player)]
        return list({id(part): part for part in parts}.values())

    def in_order(self) -> list[Objective]:
        """Return the objectives of all players, those with an ELBO first, whose first call makes lazy guides."""
        own = [player.objective for player in self.players]
        with_elbo = [any(isinstance(part, ELBOObjective) for part in objective.parts()) for objective in own]
        return [own[at] for at in sorted(range(len(own)), key=lambda at: not with_elbo[at])]

    @staticmethod
    def elbo_objectives_of(player: Player) -> list[ELBOObjective]:
        """Return the ELBO objectives of one player."""
        return [part for part in player.objective.parts() if isinstance(part, ELBOObjective)]

    def elbo_objective(self, purpose: str) -> ELBOObjective:
        """Return the one ELBO objective of this plan.

        Args:
            purpose: what asks for it, such as ``"--elbo"``; errors begin with it.

        Raises:
            ValueError: if there are none or several.
        """
        objectives = self.elbo_objectives
        if len(objectives) != 1:
            there = "no ELBO" if not objectives else f"{len(objectives)} ELBOs"
            names = ", ".join(player.name for player in self.players)
            raise ValueError(f"{purpose} needs a model that is trained by one ELBO; this one has {there} ({names})")
        return objectives[0]

    def with_elbo(self, elbo: ELBO) -> TrainingPlan:
        """Put an ELBO in the place of the one that this plan has, and return the plan.

        Raises:
            ValueError: if the plan has none or several, or the ELBO has no differentiable loss.
        """
        check_elbo(elbo)
        self.elbo_objective("--elbo").replace_elbo(elbo)
        return self

    def with_optimizer(self, optimizer: OptimizerSettings, player: str | None = None) -> TrainingPlan:
        """Return this plan with another optimiser.

        Args:
            optimizer: the optimiser.
            player: whose; needed where there are several.

        Raises:
            ValueError: if there is no such player, or there are several and none is named.
        """
        names = [each.name for each in self.players]
        if player is None and len(names) > 1:
            raise ValueError(
                f"--optimizer is for one player, this model has {', '.join(names)}; give --players.NAME.optimizer"
            )
        if player is not None and player not in names:
            raise ValueError(f"there is no player {player!r}; this model has {', '.join(names)}")
        chosen = names[0] if player is None else player
        players = [replace(each, optimizer=optimizer) if each.name == chosen else each for each in self.players]
        return replace(self, players=players)

    def _check_ownership(self) -> None:
        open_ended = [player.name for player in self.players if player.parameters is None]
        if len(open_ended) > 1:
            raise ValueError(
                f"players {' and '.join(open_ended)} have parameters=None; only one player may leave them open, name "
                "the parameters of the others"
            )
        owner: dict[int, str] = {}
        for player in self.players:
            for parameter in player.parameters or ():
                if not isinstance(parameter, nn.Parameter):
                    raise ValueError(f"parameters of player {player.name!r} must be nn.Parameters, got {parameter!r}")
                if id(parameter) in owner:
                    raise ValueError(
                        f"a parameter of shape {tuple(parameter.shape)} belongs to players {owner[id(parameter)]!r} "
                        f"and {player.name!r}; each parameter is trained by one player"
                    )
                owner[id(parameter)] = player.name
