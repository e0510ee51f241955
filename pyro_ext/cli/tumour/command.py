"""``pyro-ext tumour TASK MATRIX``: a trained network and the mutation matrix of a patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

from pyro_ext.cli.errors import naming_options
from pyro_ext.cli.parsing import option_names, parse

__all__ = ["TASKS", "run"]

TASKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "branching": ("pyro_ext.cli.tumour.branching", "the probability that the phylogeny has branches"),
        "denoise": ("pyro_ext.cli.tumour.denoise", "the matrix without noise, and its phylogeny"),
    }
)
"""Name of a task -> its module, which has ``parser()`` and ``run(options)``, and its line in the help."""


def run(words: Sequence[str]) -> int:
    """Run one task.

    Args:
        words: what follows ``tumour``: the name of a task, a file and options.

    Raises:
        ValueError: if an option or the content of a file is wrong; nothing has been written then.
        OSError: if a file cannot be read or written.
    """
    if words and words[0] in ("-h", "--help"):
        print(_help())
        return 0
    known = ", ".join(TASKS)
    if not words or words[0].startswith("-"):
        raise ValueError(f"tumour needs a task before its options: one of {known}")
    if words[0] not in TASKS:
        raise ValueError(f"tumour has no task {words[0]!r}; choose one of {known}")
    task = import_module(TASKS[words[0]][0])
    parser = task.parser()
    options = parse(parser, (), words[1:])
    with naming_options(option_names(parser)):
        task.run(options)
    return 0


def _help() -> str:
    width = max(map(len, TASKS))
    return "\n".join(
        [
            f"usage: pyro-ext tumour {'|'.join(TASKS)} MATRIX --run FOLDER [options]",
            "",
            "What a network that was trained on simulated tumours says about the mutation matrix of a patient.",
            "",
            "tasks:",
            *(f"  {name.ljust(width)}  {summary}" for name, (_, summary) in TASKS.items()),
            "",
            "pyro-ext tumour TASK --help lists the options of a task.",
        ]
    )
