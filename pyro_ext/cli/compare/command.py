"""``pyro-ext compare MODEL``: gradient estimators side by side, at equal numbers of model evaluations."""

from __future__ import annotations

import logging
import shlex
import sys
import traceback

from jsonargparse import ArgumentParser, Namespace

from pyro_ext.cli.commands import COMMANDS, Commands
from pyro_ext.models import AVAILABLE, describe

__all__ = ["add_parser", "run"]

_DESCRIPTION = (
    "Compare gradient estimators: bias, variance, time per step, final bound. The options depend on the model: "
    "pyro-ext compare MODEL --help lists them."
)


def add_parser(commands: Commands) -> None:
    """Add the parser; only the chosen model's own is made in full."""
    parser = ArgumentParser(description=_DESCRIPTION, exit_on_error=False)
    commands.add_subcommand("compare", parser, help=COMMANDS["compare"].help)
    models = parser.add_subcommands(dest="model", metavar="MODEL", required=True)
    words = commands.arguments
    chosen = words[0] if words and not words[0].startswith("-") else None
    if chosen is None and not {"-h", "--help"} & {*words}:
        raise ValueError(f"compare needs a MODEL before its options: one of {', '.join(AVAILABLE)}")
    full = None
    if chosen is not None:
        from pyro_ext.cli.compare_arguments import checkpoint_in, compare_parser, with_data_of_run
        from pyro_ext.cli.fit_arguments import first_look, rewritten

        words[1:] = with_data_of_run(words[1:])
        look = first_look(chosen, words[1:])
        full = compare_parser(look, checkpoint_in(words))
        words[1:] = rewritten(look, words[1:])
    for name, model in describe().items():
        own = full if full is not None and name == chosen else ArgumentParser()
        models.add_subcommand(name, own, help=f"{model.summary} ({model.paper.split(',')[0]})")


def run(namespace: Namespace) -> int:
    """Compare, print the table and write the results.

    Raises:
        ValueError: if an option is wrong; nothing has been written then.
        KeyboardInterrupt: on Ctrl-C, after a hint how to go on if there are trained weights.
    """
    from pyro_ext.cli.compare_job import Job
    from pyro_ext.cli.compare_report import table

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its notices would break up the progress bar
    job = Job.prepare(namespace.model, namespace[namespace.model])
    try:
        rows = job.rows()
    except KeyboardInterrupt:
        if (job.weights / "last.ckpt").is_file():
            again = f"pyro-ext compare {job.name} --checkpoint {shlex.quote(str(job.weights))} --out ANOTHER"
            print(f"to measure at the weights reached so far: {again}", file=sys.stderr)
        raise
    except ValueError:  # not an option's fault any more
        traceback.print_exc()
        return 1
    job.write(rows)
    print(table(rows))
    print(f"results are in {job.out}")
    return 0
