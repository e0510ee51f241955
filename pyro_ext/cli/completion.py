"""``pyro-ext completion SHELL``: a script that completes commands, models and options with the tab key."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from pyro_ext.models import MODELS

__all__ = ["run"]

_DESCRIPTION = """\
Print a script for tab completion of commands, models and options. To have it in every new shell:

  bash  pyro-ext completion bash > ~/.local/share/bash-completion/completions/pyro-ext
  zsh   pyro-ext completion zsh > DIRECTORY/_pyro-ext, for a DIRECTORY of $fpath
  tcsh  pyro-ext completion tcsh > ~/.pyro-ext.tcsh, and a line 'source ~/.pyro-ext.tcsh' in ~/.tcshrc
"""


def run(words: Sequence[str]) -> int:
    """Print the script.

    Args:
        words: what follows ``completion``: the name of the shell.

    Raises:
        argparse.ArgumentError: if the shell is none of those known.
        ValueError: if there are further words.
        ImportError: if shtab is not installed.
    """
    parser = argparse.ArgumentParser(
        "pyro-ext completion",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="your shell")
    chosen, unknown = parser.parse_known_args(words)
    if unknown:
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs shtab: pip install 'pyro-ext[fit]'") from error
    print("reading the options of all models; this takes a while", file=sys.stderr)
    print(shtab.complete(_whole_parser(), chosen.shell))
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, with the names of all options."""
    from pyro_ext.cli.__main__ import COMMANDS
    from pyro_ext.cli.compare.arguments import compare_parser
    from pyro_ext.cli.evidence.command import evidence_parser
    from pyro_ext.cli.fit.arguments import fit_parser
    from pyro_ext.cli.program import Program

    whole = argparse.ArgumentParser("pyro-ext")
    commands = whole.add_subparsers(dest="command")
    for name, (_, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name in ("fit", "compare"):
            models = command.add_subparsers(dest="model")
            for model, entry in MODELS.items():
                own = models.add_parser(model, help=entry.summary)
                own.add_argument("--data", help="a data set, a file, or my_module:load")
                program = Program.named(model, None)
                _copy_options(fit_parser(program) if name == "fit" else compare_parser(program), own)
        elif name == "evidence":
            _copy_options(evidence_parser(), command)
        elif name == "completion":
            command.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return whole


def _copy_options(source: Any, target: argparse.ArgumentParser) -> None:
    """Give a plain parser the options of another one; only names, choices and kinds of values count."""
    known = {"--data", "--help", "-h"}
    for action in source._actions:
        names = [option for option in action.option_strings if option not in known]
        if names and action.help is not argparse.SUPPRESS:
            path = any(word in names[0] for word in ("--out", "--config", "trees", "golden"))
            own = target.add_argument(*names, help=" ".join(str(action.help or "").split()).replace("%", "%%"))
            own.choices = action.choices
            if path:
                own.complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # type: ignore[attr-defined]
