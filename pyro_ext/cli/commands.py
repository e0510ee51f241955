"""Which commands there are, without importing any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

__all__ = ["COMMANDS", "Command", "Commands", "available"]


@dataclass(frozen=True)
class Command:
    """A command's module and its line in ``pyro-ext --help``."""

    module: str
    help: str


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "fit": Command("pyro_ext.cli.fit", "fit a model to data"),
        "compare": Command("pyro_ext.cli.compare", "compare gradient estimators: bias, variance, time, bound"),
        "sbn": Command("pyro_ext.cli.sbn", "laws of trees: fit, evaluate, sample subsplit Bayesian networks"),
        "evidence": Command(
            "pyro_ext.cli.evidence", "marginal likelihoods of trees: by one of nineteen methods, or by all"
        ),
        "models": Command("pyro_ext.cli.models", "list the models there are"),
    }
)


def available() -> dict[str, Command]:
    """Return the commands whose modules are installed."""
    return {name: command for name, command in COMMANDS.items() if find_spec(command.module) is not None}


@dataclass
class Commands:
    """What a command's ``add_parser`` is given.

    Args:
        action: where parsers are added.
        arguments: the words after the command's name, which ``add_parser`` may rewrite in place.
    """

    action: Any
    arguments: list[str]

    def add_subcommand(self, name: str, parser: Any, **kwargs: Any) -> Any:
        """Add a command's parser."""
        return self.action.add_subcommand(name, parser, **kwargs)
