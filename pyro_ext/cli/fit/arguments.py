"""The options of ``pyro-ext fit MODEL``, from the signatures of the model, the data, the ELBO and the Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import SUPPRESS, ArgumentParser

from pyro_ext.cli.choices import check_elbo_name
from pyro_ext.cli.parsing import as_dict, check_names, command_parser, parse, read_options, scan, with_prefix
from pyro_ext.cli.program import Program
from pyro_ext.cli.program_options import (
    ProgramArguments,
    add_data_options,
    add_model_options,
    data_name,
    last_given,
    with_data_of,
)
from pyro_ext.inference.training import FitSettings, OptimizerSettings, SchedulerSettings, TrainingPlan
from pyro_ext.inference.training.settings import optimizer_class, scheduler_class

__all__ = ["LOGGERS", "Arguments", "fit_parser"]

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")

_EPOCHS = 20  # unless the model has a number of its own

_WITHOUT_EFFECT = {
    "enable_autolog_hparams",
    "enable_model_summary",
    "inference_mode",
    "limit_predict_batches",
    "limit_test_batches",
    "limit_val_batches",
    "logger",
    "model_registry",
    "num_sanity_val_steps",
    "val_check_interval",
}
"""Trainer flags about validation loops, which the engine does not use, about services, and what ``--logger`` does."""


@dataclass(frozen=True)
class GivenOptimizer:
    """What was said of an optimiser.

    Args:
        named: whether its class was named.
        options: the names of the options that were given.
    """

    named: bool
    options: frozenset[str]


@dataclass(frozen=True)
class Arguments(ProgramArguments):
    """What the words and files after ``pyro-ext fit`` say, parsed.

    Args:
        program: the model and the data.
        options: all options but those of the Trainer, with their types.
        parts: the same with the ELBO and dataclasses made.
        noted: all options but those of the Trainer, as they are written in files.
        out: the folder of results.
        optimizers: what was said of optimisers, by the name of the player; ``""`` is the only player there is.
        trainer_words: the options of the Trainer, each as one word.
        trainer_config: the same from files.
    """

    out: Path
    optimizers: Mapping[str, GivenOptimizer]
    trainer_words: tuple[str, ...]
    trainer_config: dict[str, Any]

    @classmethod
    def parsed(cls, model: str, words: Sequence[str]) -> Arguments:
        """Parse what follows ``pyro-ext fit MODEL``, without importing Lightning unless help is asked for.

        Raises:
            ValueError: if an option, a file or a name is wrong.
            argparse.ArgumentError: if a value is of a wrong type.
        """
        seen = scan(words, ("--name", "--out", "--resume", "--elbo", "--optimizer", "--scheduler"))
        files = [(path, read_options(path)) for path in seen.configs]
        named = seen.given.get("--name") or last_given(files, "name")
        out = Path(seen.given.get("--out") or last_given(files, "out") or Path("runs") / (named or _short(model)))
        earlier = out / "config.yaml"
        if seen.given.get("--resume", "false").lower() in ("true", "yes") and earlier.is_file():
            files.insert(0, (str(earlier), read_options(str(earlier))))
        program = Program.named(model, seen.data or data_name(last_given(files, "data")))
        files = [(path, with_data_of(program, options)) for path, options in files]
        _check_elbo(seen.given.get("--elbo"), seen.rest, [options for _, options in files])
        _check_classes(seen.given)
        optimizers = _optimizers(seen.rest, [options for _, options in files])
        parser = fit_parser(program, [name for name in optimizers if name], with_trainer=seen.wants_help)
        trainer: dict[str, Any] = {}
        for path, options in files:
            if not seen.wants_help:
                trainer |= options.pop("trainer", None) or {}
            check_names(parser, options, path)
        data = [f"--data.{name}={value}" for name, value in program.data_options.items()]
        rest = [*data, *seen.rest, *(seen.trainer if seen.wants_help else ())]
        options = parse(parser, [given for _, given in files], rest)
        noted = as_dict(parser, options) | {"program": program.name}
        parts = parser.instantiate(options)
        arguments = cls(program, options, parts, noted, out, optimizers, seen.trainer, trainer)
        arguments.check_program()
        return arguments

    def settings(self, seed: int, max_epochs: int) -> FitSettings:
        """Return the settings of the run.

        Args:
            seed: the seed, given or drawn.
            max_epochs: the Trainer's number of epochs.
        """
        parts = self.parts
        return FitSettings(
            max_epochs=max_epochs,
            batch_size=parts.batch_size,
            seed=seed,
            early_stopping=parts.early_stopping,
            checkpoint_every_n_steps=parts.checkpoint_every_n_steps,
        )

    def trainer(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the Trainer's flags, and the same as they are written in files. Imports Lightning.

        Raises:
            ValueError: if there is no such flag.
            argparse.ArgumentError: if a value is of a wrong type.
        """
        parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
        parser.add_argument("--config", action="config", help=SUPPRESS)
        _add_trainer(parser, self.program)
        config = [{"trainer": self.trainer_config}] if self.trainer_config else []
        for options in config:
            check_names(parser, options, "config.yaml")
        parsed = parse(parser, config, self.trainer_words)
        noted: dict[str, Any] = as_dict(parser, parsed)["trainer"]
        return _arguments(parser.instantiate(parsed).trainer), noted

    def applied(self, plan: TrainingPlan) -> TrainingPlan:
        """Return the plan with the ELBO, the optimisers and the scheduler that were given.

        Raises:
            ValueError: if an ELBO is given and the plan has not just one, or there is no such player.
        """
        if self.parts.elbo is not None:
            plan = plan.with_elbo(self.parts.elbo)
        for name, given in self.optimizers.items():
            parsed = self.parts.players[name].optimizer if name else self.parts.optimizer
            plan = plan.with_optimizer(_settings_of(plan, name, parsed, given), name or None)
        if self.parts.scheduler is not None:
            options = _arguments(self.parts.scheduler.init_args)
            options.pop("last_epoch", None)
            name = self.parts.scheduler.class_path.removeprefix("torch.optim.lr_scheduler.")
            scheduler = SchedulerSettings(name, interval=self.parts.scheduler_interval, **options)
            players = [replace(each, optimizer=_rescheduled(each.optimizer, scheduler)) for each in plan.players]
            plan = replace(plan, players=players)
        return plan

    def config(self, plan: TrainingPlan, seed: int, trainer: Mapping[str, Any]) -> str:
        """Return all options as YAML, from which the run can be repeated.

        Args:
            plan: the plan that was built.
            seed: the seed, given or drawn.
            trainer: the Trainer's flags as they are written in files.
        """
        noted = {**self.noted, "seed": seed, "resume": False, "overwrite": False, "trainer": dict(trainer)}
        noted.pop("optimizer", None)
        noted.pop("players", None)
        chosen = {player.name: player.optimizer for player in plan.players}
        for name, given in self.optimizers.items():
            settings = chosen[name or plan.players[0].name]
            path = settings.name if "." in settings.name else f"torch.optim.{settings.name}"
            options = {option: settings.options[option] for option in sorted(given.options)}
            section = {"class_path": path, "init_args": options}
            if name:
                noted.setdefault("players", {})[name] = {"optimizer": section}
            else:
                noted["optimizer"] = section
        return str(yaml.safe_dump(noted, sort_keys=False))


def fit_parser(program: Program, players: Sequence[str] = (), with_trainer: bool = True) -> ArgumentParser:
    """Return the parser of everything that can be said after MODEL.

    Args:
        program: the model and the data.
        players: the names of players whose optimisers are options.
        with_trainer: whether the Trainer's flags are among the options, for which Lightning is imported.
    """
    import torch
    from pyro.infer import ELBO

    import pyro_ext.inference  # noqa: F401 - so that its ELBOs are known by name

    usage = f"pyro-ext fit {program.name} [options]"
    parser = command_parser(usage, program.summary)
    parser.add_argument("--config", action="config", help="a YAML file of options, like config.yaml of an earlier run")
    parser.add_argument("--program", type=str | None, default=None, help=SUPPRESS)
    parser.add_argument("--name", type=str | None, default=None, help="results go to runs/NAME; by default the model's")
    parser.add_argument("--out", type=str | None, default=None, help="the folder of results, instead of runs/NAME")
    parser.add_argument("--resume", nargs="?", const=True, type=bool, default=False, help="continue the run there")
    parser.add_argument("--overwrite", nargs="?", const=True, type=bool, default=False, help="replace the run there")
    parser.add_class_arguments(FitSettings, as_group=False, skip={"max_epochs", "scheduler"})
    parser.add_argument(
        "--logger",
        type=str | None,
        default=None,
        help=f"a logger of Lightning besides metrics.csv: {', '.join(LOGGERS)}",
    )
    add_model_options(parser, program)
    add_data_options(parser, program)
    group = parser.add_argument_group("estimator and optimisers")
    elbo = "an ELBO of pyro.infer or pyro_ext.inference by name, or any by class path; by default the model's own"
    group.add_subclass_arguments(ELBO, "elbo", as_group=False, required=False, help=elbo)
    for name in ("optimizer", *(f"players.{player}.optimizer" for player in players)):
        group.add_subclass_arguments(
            torch.optim.Optimizer,
            name,
            as_group=False,
            skip={"params"},
            required=False,
            instantiate=False,
            help="an optimiser of torch.optim by name; by default the model's own, whose options can be given alone",
        )
        parser.set_defaults({name: {"class_path": "torch.optim.Adam"}})
    group.add_subclass_arguments(
        torch.optim.lr_scheduler.LRScheduler,
        "scheduler",
        as_group=False,
        skip={"optimizer"},
        required=False,
        instantiate=False,
        help="a learning-rate scheduler of torch.optim.lr_scheduler by name; by default the model's own",
    )
    group.add_argument(
        "--scheduler_interval",
        type=Literal["epoch", "step"],
        default="epoch",
        help="whether the scheduler is stepped after each epoch or after each step",
    )
    if with_trainer:
        _add_trainer(parser, program)
    own = {name: value for name, value in program.defaults().items() if not name.startswith("trainer.")}
    parser.set_defaults(own)
    return parser


def _add_trainer(parser: ArgumentParser, program: Program) -> None:
    from lightning.pytorch import Trainer

    from pyro_ext.inference.training.engine import RESERVED

    skip = ({*RESERVED} | _WITHOUT_EFFECT) - {"max_epochs"}
    parser.add_class_arguments(Trainer, "trainer", skip=skip, instantiate=False)
    parser.set_defaults({"trainer.max_epochs": _EPOCHS, **program.defaults("trainer.")})


def _arguments(options: Any) -> dict[str, Any]:
    return {} if options is None else dict(vars(options))


def _short(model: str) -> str:
    module, colon, _ = model.partition(":")
    return module.rpartition(".")[2] if colon else model


def _check_elbo(named: str | None, words: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> None:
    options = sorted(with_prefix(words, "--elbo.") - {"help"})
    if named is not None:
        check_elbo_name(named)
    elif options and not any(options.get("elbo") for options in configs):
        raise ValueError(f"--elbo.{options[0]} needs --elbo NAME, the ELBO whose option it is")


def _check_classes(given: Mapping[str, str]) -> None:
    """Raise a ValueError that lists what there is, if an optimiser or a scheduler does not exist."""
    if "--optimizer" in given:
        optimizer_class(given["--optimizer"].removeprefix("torch.optim."))
    if "--scheduler" in given:
        scheduler_class(given["--scheduler"].removeprefix("torch.optim.lr_scheduler."))


def _optimizers(words: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> dict[str, GivenOptimizer]:
    """Return what is said of optimisers, by player."""
    sections: dict[str, list[Any]] = {}
    for options in configs:
        if options.get("optimizer") is not None:
            sections.setdefault("", []).append(options["optimizer"])
        for name, player in (options.get("players") or {}).items():
            sections.setdefault(name, []).append((player or {}).get("optimizer"))
    names = [*sections, *(name.partition(".")[0] for name in with_prefix(words, "--players."))]
    if with_prefix(words, "--optimizer"):
        names.append("")
    result = {}
    for name in dict.fromkeys(names):
        option = f"--players.{name}.optimizer" if name else "--optimizer"
        own = [section for section in sections.get(name, []) if section]
        inside = {key for section in own if isinstance(section, Mapping) for key in section.get("init_args") or {}}
        named = bool(own) or any(word.partition("=")[0] == option for word in words)
        written = {each.removeprefix("init_args.") for each in with_prefix(words, f"{option}.")} - {"help"}
        result[name] = GivenOptimizer(named, frozenset(inside | written))
    return result


def _settings_of(plan: TrainingPlan, name: str, parsed: Any, given: GivenOptimizer) -> OptimizerSettings:
    """Return the optimiser of a player with what was given in the place of its own options."""
    before = next((each.optimizer for each in plan.players if name in ("", each.name)), OptimizerSettings())
    kind = parsed.class_path.removeprefix("torch.optim.") if given.named else before.name
    chosen = {option: value for option, value in vars(parsed.init_args).items() if option in given.options}
    if kind != before.name:
        return OptimizerSettings(kind, scheduler=before.scheduler, **chosen)
    options = {**before.options, **chosen}
    return OptimizerSettings(kind, scheduler=before.scheduler, groups=before.groups, **options)


def _rescheduled(settings: OptimizerSettings, scheduler: SchedulerSettings) -> OptimizerSettings:
    return OptimizerSettings(settings.name, scheduler=scheduler, groups=settings.groups, **settings.options)
