"""``pyro-ext models``: what there is to fit."""

from __future__ import annotations

import textwrap
from typing import Any

from jsonargparse import ArgumentParser

from pyro_ext.cli.commands import COMMANDS, Commands
from pyro_ext.models import describe

__all__ = ["add_parser", "run"]

_WIDTH = 100


def add_parser(commands: Commands) -> None:
    """Add the parser, which has no options."""
    parser = ArgumentParser(description="List the models: name, one line, data, paper.", exit_on_error=False)
    commands.add_subcommand("models", parser, help=COMMANDS["models"].help)


def run(namespace: Any) -> int:
    """Print the list."""
    for name, model in describe().items():
        print(name)
        for title, text in (("", model.summary), ("data: ", model.data), ("paper: ", model.paper)):
            print(textwrap.fill(title + text, _WIDTH, initial_indent="    ", subsequent_indent="        "))
    return 0
