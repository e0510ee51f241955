"""Entry point of ``pyro-ext`` and of ``python -m pyro_ext.cli``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pyro_ext import __version__
from pyro_ext.cli.commands import Commands, available

__all__ = ["main"]

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 130 interrupted.

    Args:
        argv: the words after ``pyro-ext``; by default those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, argparse.ArgumentError) as error:
        print(f"pyro-ext: {_one_line(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        print(f"pyro-ext: {error}", file=sys.stderr)
        return BAD_INPUT
    except SystemExit as leaving:  # after --help, --version and --print_config
        return leaving.code if isinstance(leaving.code, int) else DONE


def _run(arguments: list[str]) -> int:
    try:
        from jsonargparse import ArgumentParser
    except ImportError as error:
        raise ImportError("the command line needs jsonargparse: pip install 'pyro-ext[fit]'") from error
    parser = ArgumentParser(
        prog="pyro-ext",
        usage="pyro-ext COMMAND [options]",
        description="Variational inference over discrete and structured latent variables.",
        version=__version__,
        exit_on_error=False,
    )
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    commands = available()
    if chosen is None and not {"-h", "--help", "--version"} & {*arguments}:
        raise ValueError(f"a command is missing: one of {', '.join(commands)} (pyro-ext --help tells more)")
    if chosen is not None and chosen not in commands:
        raise ValueError(f"there is no command {chosen!r}; choose one of {', '.join(commands)}")
    before = arguments[: arguments.index(chosen)] if chosen is not None else arguments
    own = Commands(parser.add_subcommands(dest="command"), arguments[len(before) + 1 :])
    module: Any = None
    for name, command in commands.items():
        if name == chosen:
            module = import_module(command.module)
            module.add_parser(own)
        else:
            own.add_subcommand(name, ArgumentParser(), help=command.help)
    namespace = parser.parse_args([*before, *([chosen] if chosen else []), *own.arguments])
    return int(module.run(namespace[namespace.command]))


def _one_line(message: str) -> str:
    """Return an error on one line, with what was tried in vain for each possible type boiled down to what tells."""
    key = re.match(r'Parser key "([^"]+)":', message)
    if "Errors:" in message:
        attempts, _, given = message.partition("Errors:")[2].partition("Given value type")
        telling = [reason for reason in re.split(r"\n\s*- ", attempts) if reason.strip() and "NoneType" not in reason]
        message = telling[0] if telling else message
        if message.startswith("Expected a <class"):
            message += ". Got value: " + given.partition("Given value: ")[2]
    elif key:
        message = message[key.end() :]
    return " ".join([*([f"--{key[1]}:"] if key else []), *message.split()])


if __name__ == "__main__":
    sys.exit(main())
