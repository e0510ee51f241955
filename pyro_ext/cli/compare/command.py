"""``pyro-ext compare MODEL``: gradient estimators side by side, at equal numbers of model evaluations."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec

from pyro_ext.cli.errors import naming_options
from pyro_ext.cli.models import model_list
from pyro_ext.models import MODELS

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """Compare, print the table and write the results.

    Args:
        words: what follows ``compare``.

    Raises:
        ValueError: if an option is wrong, or the model has no ELBO or several; nothing has been written then.
        KeyboardInterrupt: on Ctrl-C, after a hint how to continue if there are trained weights.
    """
    if words and words[0] in ("-h", "--help"):
        print(model_list("compare"))
        return 0
    if not words or words[0].startswith("-"):
        raise ValueError(f"compare needs a MODEL before its options: one of {', '.join(MODELS)}, or my_module:build")
    for package, extra in (("lightning", "fit"), ("matplotlib", "plot")):
        if find_spec(package) is None:
            raise ImportError(f"comparing needs {package}: pip install 'pyro-ext[{extra}]'")
    from pyro_ext.cli.compare.arguments import Arguments
    from pyro_ext.cli.compare.job import Job
    from pyro_ext.cli.compare.report import table

    arguments = Arguments.parsed(words[0], words[1:])
    with naming_options(arguments.option_names):
        job = Job.prepare(arguments)
    try:
        rows = job.rows()
    except KeyboardInterrupt:
        if (job.weights / "last.ckpt").is_file():
            program = job.arguments.program
            data = [] if program.entry is not None else ["--data", program.data]
            again = ["pyro-ext", "compare", program.name, *data, "--checkpoint", str(job.weights), "--out", "ANOTHER"]
            print(f"to measure at the weights reached so far: {shlex.join(again)}", file=sys.stderr)
        raise
    except (ValueError, NotImplementedError):  # not an option's fault any more
        traceback.print_exc()
        return 1
    job.write(rows)
    print(table(rows, job.metric))
    if complaint := job.complaint():
        print(f"note: {complaint}")
    print(f"results are in {job.out}")
    return 0
