"""The options of ``pyro-ext compare MODEL``, and the estimators that they name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import yaml
from jsonargparse import SUPPRESS, ArgumentParser
from pyro.infer import ELBO

from pyro_ext.cli.choices import elbo_names
from pyro_ext.cli.errors import nearest
from pyro_ext.cli.parsing import as_dict, check_names, command_parser, parse, read_options, scan
from pyro_ext.cli.program import Program
from pyro_ext.cli.program_options import (
    ProgramArguments,
    add_data_options,
    add_model_options,
    data_name,
    last_given,
    with_data_of,
)
from pyro_ext.inference import TraceDisARM_ELBO
from pyro_ext.inference.joint_draws.engine import JointDrawsELBO

__all__ = ["LEAST_EPOCHS", "MOST_EPOCHS", "Arguments", "Estimator", "compare_parser", "estimators"]

LEAST_EPOCHS, MOST_EPOCHS = 20, 60  # of training before measuring, unless told otherwise

_DEFAULT = "Trace_ELBO,TraceLeaveOneOut_ELBO,TraceSumAndSample_ELBO,TraceUnorderedSet_ELBO"
_SET_HERE = {
    "max_plate_nesting": "that of the model",
    "num_particles": "set by --evaluations",
    "num_samples": "set by --evaluations",
    "vectorize_particles": "set by --evaluations",
}


@dataclass(frozen=True)
class Estimator:
    """An ELBO to compare.

    Args:
        label: the ELBO and its options as they were written.
        kind: the class.
        options: further arguments of the class.
    """

    label: str
    kind: type[ELBO]
    options: dict[str, Any]

    def make(self, evaluations: int, max_plate_nesting: float = math.inf) -> ELBO:
        """Return the ELBO that evaluates the model ``evaluations`` times for each datum and step.

        Args:
            evaluations: the number of evaluations.
            max_plate_nesting: the number of nested plates in the model; guessed if infinite.

        Raises:
            ValueError: if the class does not take its options.
            NotImplementedError: if it cannot be made to do so many evaluations.
        """
        arguments = {**_spending(self.kind, evaluations), "max_plate_nesting": max_plate_nesting}
        try:
            return self.kind(**arguments, **self.options)
        except (TypeError, ValueError) as error:
            if self.options:
                raise ValueError(f"--elbos: {self.label}: {error}") from error
            raise NotImplementedError(str(error)) from error


def estimators(text: str) -> list[Estimator]:
    """Read ``NAME,NAME:option=value:option=value,...``.

    Args:
        text: short names of ELBOs or class paths, each with options of its own if need be.

    Raises:
        ValueError: if there are none, one is named twice, a name is unknown, or an option is malformed.

    Example:
        >>> [(each.kind.__name__, each.options) for each in estimators("Trace_ELBO,TraceUnorderedSet_ELBO:baseline=no")]
        [('Trace_ELBO', {}), ('TraceUnorderedSet_ELBO', {'baseline': False})]
    """
    named = [_estimator(label.strip()) for label in text.split(",") if label.strip()]
    labels = [each.label for each in named]
    if not named:
        raise ValueError("--elbos must name at least one ELBO, as in --elbos Trace_ELBO,TraceUnorderedSet_ELBO")
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"--elbos names {twice} twice")
    return named


@dataclass(frozen=True)
class Arguments(ProgramArguments):
    """What the words and files after ``pyro-ext compare`` say, parsed.

    Args:
        program: the model and the data.
        options: all options, with their types.
        parts: the same with dataclasses made.
        noted: all options as they are written in files.
        checkpoint: the checkpoint whose weights are to be measured at, if any.
    """

    checkpoint: Mapping[str, Any] | None

    @classmethod
    def parsed(cls, model: str, words: Sequence[str]) -> Arguments:
        """Parse what follows ``pyro-ext compare MODEL``.

        The options of a checkpoint's model and data are the defaults of these.

        Raises:
            ValueError: if an option, a file or a name is wrong.
            argparse.ArgumentError: if a value is of a wrong type.
        """
        seen = scan(words, ("--checkpoint",))
        files = [(path, read_options(path)) for path in seen.configs]
        folder = seen.given.get("--checkpoint") or last_given(files, "checkpoint")
        checkpoint = None if folder is None else _checkpoint_in(folder)
        origin = None if checkpoint is None else checkpoint["fit"].get("origin")
        program = Program.named(model, seen.data or data_name(last_given(files, "data")) or _data_of_run(origin))
        parser = compare_parser(program)
        given = [with_data_of(program, options) for _, options in files]
        for (path, _), options in zip(files, given, strict=True):
            check_names(parser, options, path)
        data = [f"--data.{name}={value}" for name, value in program.data_options.items()]
        options = parse(parser, [*_options_of_run(origin, program, folder), *given], [*data, *seen.rest])
        noted = as_dict(parser, options) | {"program": program.name}
        arguments = cls(program, options, parser.instantiate(options), noted, checkpoint)
        arguments.check_program()
        return arguments


def compare_parser(program: Program) -> ArgumentParser:
    """Return the parser of everything that can be said after MODEL.

    Args:
        program: the model and the data.
    """
    parser = command_parser(
        f"pyro-ext compare {program.name} [options]",
        f"Compare gradient estimators on {program.name} ({program.summary}): their bias, variance and time per step "
        "at the same weights, and what each comes to by training.",
    )
    parser.add_argument("--config", action="config", help="a YAML file of options, as --print_config prints them")
    parser.add_argument("--program", type=str | None, default=None, help=SUPPRESS)
    _add_own_options(parser)
    add_data_options(parser, program)
    add_model_options(parser, program)
    known = {action.dest for action in parser._actions}
    parser.set_defaults({name: value for name, value in program.defaults().items() if name in known})
    return parser


def _add_own_options(parser: ArgumentParser) -> None:
    def add(to: Any, name: str, kind: Any, default: Any, text: str) -> None:
        to.add_argument(f"--{name}", type=kind, default=default, help=text)

    add(parser, "out", str, "runs/compare", "the folder of results")
    add(parser, "seed", int | None, None, "repeats a comparison; by default drawn, and noted")
    add(parser, "device", str | None, None, "cpu or cuda; by default cuda where there is one")
    group = parser.add_argument_group("estimators")
    add(group, "elbos", str, _DEFAULT, "ELBOs by name or class path, between commas; options as in NAME:baseline=false")
    add(group, "evaluations", int, 4, "evaluations of the model for each datum and step, by every estimator")
    add(group, "repeats", int, 200, "the number of gradients of each estimator")
    add(group, "max_leaves", int, 4096, "enumerate up to so many joint values to find the bias")
    group = parser.add_argument_group("weights and training")
    add(
        group,
        "epochs",
        int | None,
        None,
        f"epochs of training by leave-one-out before measuring, 0 for fresh weights; by default from {LEAST_EPOCHS} "
        f"to {MOST_EPOCHS}, until the KL of the discrete sites is a nat per data point, or a tenth of the logarithm of "
        "the number of their joint values where that is less",
    )
    add(group, "checkpoint", str | None, None, "the folder of a run, to measure at its weights instead")
    add(group, "fit_epochs", int, 15, "epochs of training by each estimator, to compare what they come to; 0: none")
    add(group, "lr", float | None, None, "the learning rate of all training; by default that of the model")
    add(group, "batch_size", int, 100, "the number of data points per step")


def _checkpoint_in(folder: str) -> Mapping[str, Any]:
    from pyro_ext.inference.training.folder import RunFolder

    run = RunFolder(folder)
    if not run.checkpoint.is_file():
        raise ValueError(f"--checkpoint: {str(run.checkpoint)!r} does not exist; name the folder of a run")
    return run.load_checkpoint()


def _data_of_run(origin: Mapping[str, Any] | None) -> str | None:
    """Return the name of the data set of a run.

    Raises:
        ValueError: if it is none of this package: a checkpoint must not choose what code is run.
    """
    import pyro_ext.datasets as datasets

    if origin is None:
        return None
    loaders = {f"{load.__module__}:{load.__qualname__}": name for name, load in datasets.AVAILABLE.items()}
    if origin["load"] not in loaders:
        raise ValueError(f"--checkpoint: the data of the run come from {origin['load']!r}; name them again by --data")
    return loaders[origin["load"]]


def _options_of_run(origin: Mapping[str, Any] | None, program: Program, folder: str | None) -> list[dict[str, Any]]:
    """Return the options of the model of a run, and those of its data if they are the same, as those of a file."""
    if origin is None:
        return []
    own = program.origin({}, {})
    if origin["build"] != own.build:
        raise ValueError(f"--checkpoint: {folder!r} holds a run of {origin['build']!r}, not of {own.build!r}")
    options: dict[str, Any] = {name: value for name, value in origin["options"].items() if name in program.files}
    options["model"] = {name: value for name, value in origin["options"].items() if name not in program.files}
    if origin["load"] == own.load:
        options["data"] = {"name": program.data, **origin["data_options"]}
    return [options]


def _estimator(label: str) -> Estimator:
    name, *settings = label.split(":")
    return Estimator(label, _kind(name), dict(_options(label, settings)))


def _kind(name: str) -> type[ELBO]:
    known = elbo_names()
    if "." not in name and name not in known:
        names = ", ".join(sorted(known))
        raise ValueError(
            f"--elbos: there is no ELBO {name!r}; choose class paths or from {names}{nearest(name, known)}"
        )
    module, _, attribute = known.get(name, name).rpartition(".")
    try:
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--elbos: {name!r} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, ELBO)):
        raise ValueError(f"--elbos: {name!r} is not an ELBO")
    return kind


def _options(label: str, settings: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not (equals and option.isidentifier()):
            raise ValueError(f"--elbos: {label}: {setting!r} must have the form option=value")
        if option in _SET_HERE:
            raise ValueError(f"--elbos: {label}: {option} is {_SET_HERE[option]}")
        yield option, yaml.safe_load(value)


def _spending(kind: type[ELBO], evaluations: int) -> dict[str, Any]:
    """Return the arguments that make an ELBO of this class evaluate the model so many times."""
    if issubclass(kind, JointDrawsELBO) and evaluations < 2:
        raise NotImplementedError(f"it compares at least two draws, and --evaluations={evaluations} gives it one")
    if issubclass(kind, TraceDisARM_ELBO):
        if evaluations % 2:
            raise NotImplementedError(f"it evaluates in pairs, and --evaluations={evaluations} is odd")
        evaluations //= 2
    elif "num_samples" in inspect.signature(kind).parameters:
        return {"num_samples": evaluations}
    return {"num_particles": evaluations, "vectorize_particles": evaluations > 1}
