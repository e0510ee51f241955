"""Entry point of ``pyro-ext`` and of ``python -m pyro_ext.cli``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from pyro_ext import __version__
from pyro_ext.cli.errors import one_line

__all__ = ["COMMANDS", "main"]

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fit": ("pyro_ext.cli.fit.command", "fit a model to data"),
        "compare": ("pyro_ext.cli.compare.command", "compare gradient estimators: bias, variance, time, bound"),
        "sbn": (
            "pyro_ext.cli.sbn.command",
            "tree distributions: fit, evaluate, sample, summarize subsplit networks",
        ),
        "evidence": ("pyro_ext.cli.evidence.command", "marginal likelihoods of trees, by nineteen methods"),
        "tumour": ("pyro_ext.cli.tumour.command", "what trained networks say about the mutation matrix of a tumour"),
        "models": ("pyro_ext.cli.models", "list the models there are"),
        "completion": ("pyro_ext.cli.completion", "print a script for tab completion in your shell"),
    }
)
"""Name of a command -> its module, which has ``run(words) -> exit code``, and its line in ``pyro-ext --help``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 130 interrupted.

    Args:
        argv: the words after ``pyro-ext``; by default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        print(f"pyro-ext: {error}", file=sys.stderr)
        return BAD_INPUT
    except SystemExit as leaving:  # after --help and --print_config
        return leaving.code if isinstance(leaving.code, int) else DONE
    except Exception as error:
        message = one_line(error)
        if message is None:
            raise
        print(f"pyro-ext: {message}", file=sys.stderr)
        return BAD_INPUT


def _run(words: list[str]) -> int:
    chosen = words[0] if words else None
    if chosen in ("-h", "--help"):
        print(_help())
        return DONE
    if chosen == "--version":
        print(f"pyro-ext {__version__}")
        return DONE
    if chosen is None or chosen.startswith("-"):
        raise ValueError(f"a command is missing: one of {', '.join(COMMANDS)} (pyro-ext --help tells more)")
    if chosen not in COMMANDS:
        raise ValueError(f"there is no command {chosen!r}; choose one of {', '.join(COMMANDS)}")
    if chosen != "models" and find_spec("jsonargparse") is None:
        raise ImportError("the command line needs jsonargparse: pip install 'pyro-ext[fit]'")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # models, data and classes of one's own may lie there
    return int(import_module(COMMANDS[chosen][0]).run(words[1:]))


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pyro-ext COMMAND [options]",
            "",
            "Variational inference over discrete and structured latent variables.",
            "",
            "commands:",
            *lines,
            "",
            "pyro-ext COMMAND --help lists a command's options; pyro-ext --version prints the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
