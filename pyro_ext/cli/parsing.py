"""Parsers made from signatures, options from files, and what can be read from the words before a parser is made."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace

from pyro_ext.cli.errors import nearest

_NESTED = ("--optimizer.lr", "--optimizer.weight_decay", "--elbo.num_samples", "--elbo.num_particles")
"""Options of classes chosen on the command line, which are not among those of the parser."""

__all__ = [
    "PlainHelp",
    "Words",
    "as_dict",
    "check_names",
    "command_parser",
    "flat_names",
    "option_names",
    "parse",
    "read_options",
    "scan",
    "with_prefix",
]


class PlainHelp(DefaultHelpFormatter):
    """Help that tells the default of an option where it has one, and leaves out the types of Python."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").replace("``", "").rstrip(".")
        if not action.option_strings:
            return text
        if action.required:
            return f"{text} (required)"
        nothing = action.default is None or action.default is False or action.default in ([], argparse.SUPPRESS)
        return text if nothing or isinstance(action, ActionConfigFile) else f"{text} (default: %(default)s)"


def command_parser(usage: str, description: str) -> ArgumentParser:
    """Return a parser without options, for words from which the name of the command has been taken.

    Args:
        usage: the line that shows how the command is called.
        description: what the command does.
    """
    return ArgumentParser(
        usage=usage, description=description, formatter_class=PlainHelp, exit_on_error=False, allow_abbrev=False
    )


@dataclass(frozen=True)
class Words:
    """The words of a command, sorted.

    Args:
        data: what ``--data`` names.
        configs: the files that ``--config`` names.
        trainer: the options that begin with ``--trainer.``, each as one word.
        rest: all other words, in order.
        given: the values of those other options that decide which further options there are.
        wants_help: whether help or the configuration is to be printed.
    """

    data: str | None
    configs: tuple[str, ...]
    trainer: tuple[str, ...]
    rest: tuple[str, ...]
    given: Mapping[str, Any]
    wants_help: bool


def scan(words: Sequence[str], look_for: Sequence[str] = ()) -> Words:
    """Sort the words that follow a command's MODEL.

    Args:
        words: the words.
        look_for: options, such as ``--out``, whose values are wanted although they stay among the rest.

    Raises:
        argparse.ArgumentError: if an option lacks its value.

    Example:
        >>> seen = scan(["--data", "mnist", "--trainer.devices", "2", "--out", "here"], ["--out"])
        >>> seen.data, seen.trainer, seen.rest, seen.given
        ('mnist', ('--trainer.devices=2',), ('--out', 'here'), {'--out': 'here'})
    """
    taken = _quiet_parser()
    taken.add_argument("--data", "--data.name", dest="data")
    taken.add_argument("--config", action="append", default=[])
    flags = list(dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--trainer.")))
    for flag in flags:
        taken.add_argument(flag, dest=flag, action="append", nargs="?", const="true")
    own, rest = taken.parse_known_args(list(words))
    trainer = tuple(f"{flag}={value}" for flag in flags for value in getattr(own, flag))
    looked = _quiet_parser()
    for option in look_for:
        looked.add_argument(option, dest=option, nargs="?", const="true")
    values = vars(looked.parse_known_args(rest)[0])
    given = {option: value for option, value in values.items() if value is not None}
    asks = ("-h", "--help", "--print_config", "--trainer.help")
    wants_help = any(word.partition("=")[0] in asks for word in words)
    return Words(own.data, tuple(own.config), trainer, tuple(rest), given, wants_help)


def with_prefix(words: Sequence[str], prefix: str) -> set[str]:
    """Return the names of all options that begin with a prefix, without it.

    Example:
        >>> with_prefix(["--optimizer.lr", "0.1", "--seed=3"], "--optimizer.")
        {'lr'}
    """
    options = (word.partition("=")[0] for word in words)
    return {option.removeprefix(prefix) for option in options if option.startswith(prefix)}


def read_options(path: str) -> dict[str, Any]:
    """Return the options in a YAML file.

    Raises:
        ValueError: if it cannot be read, or holds no options by name.
    """
    try:
        options = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--config: {path!r} cannot be read: {reason}") from error
    if not isinstance(options, dict):
        raise ValueError(f"--config: {path!r} must hold options by name, as --print_config prints them")
    return options


def check_names(parser: ArgumentParser, options: Mapping[str, Any], path: str) -> None:
    """Raise a ValueError that names an option of a file which the parser does not have, and the nearest one it has."""
    every = [action.dest for action in parser._actions if not action.dest.endswith(("help", "config"))]
    known = [name for name in every if not any(other.startswith(f"{name}.") for other in every)]  # not whole groups
    for name in flat_names(options):
        parts = name.split(".")
        above = {".".join(parts[:stop]) for stop in range(1, len(parts) + 1)}
        if not above & {*known}:
            raise ValueError(f"--config: {path!r} has an option {name!r} that there is not{nearest(name, known)}")


def parse(parser: ArgumentParser, configs: Sequence[Mapping[str, Any]], words: Sequence[str]) -> Namespace:
    """Return the options that files and words give; words override files wherever they stand.

    Raises:
        ValueError: if there is no such option, in which case the nearest one is named, or one is missing.
        argparse.ArgumentError: if a value is of a wrong type.
    """
    texts = [word for options in configs for word in ("--config", yaml.safe_dump(dict(options)))]
    try:
        return parser.parse_args([*texts, *words])
    except argparse.ArgumentError as error:
        message = str(error)
        if message.startswith("the following arguments are required:"):
            raise ValueError(_with_dashes(parser, message)) from error
        if not message.lower().startswith("unrecognized arguments:"):
            raise
        word = message.split(":", 1)[1].split()[0].partition("=")[0]
        known = [*option_names(parser), *_NESTED]
        raise ValueError(f"unrecognized arguments: {message.split(':', 1)[1].strip()}{nearest(word, known)}") from error


def as_dict(parser: ArgumentParser, options: Namespace) -> dict[str, Any]:
    """Return options as they are written in files."""
    noted = options.clone()
    noted.pop("config", None)
    result = yaml.safe_load(str(parser.dump(noted)))
    return dict(result or {})


def _with_dashes(parser: ArgumentParser, message: str) -> str:
    """Return what is said of missing options with their names as they are written."""
    options = {action.dest: action.option_strings for action in parser._actions if action.option_strings}
    written = {name: next((o for o in own if not o.endswith("+")), own[0]) for name, own in options.items()}
    text, _, names = message.partition(": ")
    return f"{text}: {', '.join(written.get(name, name) for name in names.split(', '))}"


def _quiet_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)


def option_names(parser: ArgumentParser) -> list[str]:
    """Return all options of a parser, as they are typed."""
    return [option for action in parser._actions for option in action.option_strings]


def flat_names(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the names of nested options, with dots between their parts.

    Example:
        >>> flat_names({"seed": 3, "data": {"path": "x"}})
        ['seed', 'data.path']
    """
    names: list[str] = []
    for name, value in options.items():
        names += flat_names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [f"{prefix}{name}"]
    return names
