"""``pyro-ext models``: what there is to fit."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from pyro_ext.models import MODELS

__all__ = ["model_list", "run"]

_WIDTH = 100


def run(words: Sequence[str]) -> int:
    """Print the list of models.

    Args:
        words: what follows ``models``: nothing, or ``--help``.

    Raises:
        ValueError: if it is anything else.
    """
    description = "List the models: name, one line, data, paper."
    parser = argparse.ArgumentParser("pyro-ext models", description=description, exit_on_error=False)
    _, unknown = parser.parse_known_args(words)
    if unknown:
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)}")
    for name, model in MODELS.items():
        print(name)
        for title, text in (("", model.summary), ("data: ", model.data), ("paper: ", model.paper)):
            print(textwrap.fill(title + text, _WIDTH, initial_indent="    ", subsequent_indent="        "))
    return 0


def model_list(command: str) -> str:
    """Return the help of a command before its MODEL is known.

    Args:
        command: its name.
    """
    width = max(map(len, MODELS))
    lines = [
        textwrap.fill(
            model.summary, _WIDTH, initial_indent=f"  {name.ljust(width)}  ", subsequent_indent=" " * (width + 4)
        )
        for name, model in MODELS.items()
    ]
    return "\n".join(
        [
            f"usage: pyro-ext {command} MODEL [options]",
            "",
            "The options depend on the model: "
            f"pyro-ext {command} MODEL --help lists them. MODEL is one of these, or a function of your own,",
            "written my_package.my_module:build, which maps data and options to a TrainingPlan.",
            "",
            "models:",
            *lines,
        ]
    )
