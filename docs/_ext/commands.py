"""A page for every command, from the parsers of the command line."""

from __future__ import annotations

import contextlib
import io
from importlib import import_module
from pathlib import Path
from typing import Any

from options import describe
from pages import title, toctree, write_folder
from sphinx.application import Sphinx

EXAMPLE = "categorical_vae"
"""The model whose options stand for those of all on the pages of ``fit`` and ``compare``."""


def _page(program: str, parser: Any, note: str = "", keep: Any = lambda name: True) -> str:
    usage = parser.format_usage().removeprefix("usage: ").strip().replace(EXAMPLE, "MODEL")
    parts = [title(program), note or parser.description or "", ""]
    parts += [f".. code-block:: text\n\n   {usage}\n", describe(parser, program, keep)]
    return "\n".join(parts)


def _of_a_model(name: str) -> bool:
    return not name.startswith(("--model.", "--data."))


def _static(command: str) -> str:
    from pyro_ext.cli.__main__ import COMMANDS, main

    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        main([command, "--help"])
    block = "".join(f"   {line}\n" if line else "\n" for line in told.getvalue().splitlines())
    summary = COMMANDS[command][1]
    return f"{title(f'pyro-ext {command}')}\n{summary[0].upper() + summary[1:]}.\n\n.. code-block:: text\n\n{block}"


def generate(source: Path) -> None:
    """Write all pages of commands."""
    from pyro_ext.cli.__main__ import COMMANDS
    from pyro_ext.cli.compare.arguments import compare_parser
    from pyro_ext.cli.evidence.command import evidence_parser
    from pyro_ext.cli.fit.arguments import fit_parser
    from pyro_ext.cli.program import Program
    from pyro_ext.cli.sbn.command import TASKS as SBN
    from pyro_ext.cli.tumour.command import TASKS as TUMOUR

    program = Program.named(EXAMPLE, None)
    note = (
        "MODEL is one of :doc:`the models </models/index>`, or a function of your own, :doc:`written my_module:build "
        "</own_model>`. The options below are those of all models, with the defaults of "
        f":doc:`/models/{EXAMPLE}`. What begins with ``--model.`` and ``--data.`` is on the page of each model."
    )
    compares = "Compare gradient estimators on a model: bias, variance, time and bound."
    pages = {
        "fit": _page("pyro-ext fit", fit_parser(program), "Fit a model to data. " + note, _of_a_model),
        "compare": _page("pyro-ext compare", compare_parser(program), f"{compares} {note}", _of_a_model),
        "evidence": _page("pyro-ext evidence", evidence_parser()),
    }
    for task, parser in SBN.items():
        pages[f"sbn_{task}"] = _page(f"pyro-ext sbn {task}", parser())
    for task, (path, _) in TUMOUR.items():
        pages[f"tumour_{task}"] = _page(f"pyro-ext tumour {task}", import_module(path).parser())
    pages |= {name: _static(name) for name in ("models", "completion")}
    order = [page for name in COMMANDS for page in pages if page == name or page.startswith(name + "_")]
    rows = "".join(
        f"   * - :doc:`pyro-ext {page.replace('_', ' ')} <{page}>`\n     - {_summary(page)}\n" for page in order
    )
    table = f".. list-table::\n   :widths: 30 70\n\n{rows}"
    intro = (
        "Every command prints its options with ``--help`` and leaves with code 0 when it is done, 2 when an option or\n"
        "a file is wrong (nothing has been written then), and 130 after Ctrl-C.\n"
    )
    index = f"{title('Command line')}\n{intro}\n{table}\n{toctree(order)}"
    write_folder(source / "commands", {"index.rst": index, **{f"{name}.rst": text for name, text in pages.items()}})


def _summary(page: str) -> str:
    from pyro_ext.cli.__main__ import COMMANDS
    from pyro_ext.cli.tumour.command import TASKS as TUMOUR

    command, _, task = page.partition("_")
    sbn = {
        "fit": "fit a subsplit Bayesian network to trees",
        "evaluate": "compare a network with a reference sample of trees",
        "sample": "draw trees from a network",
        "summarize": "most probable trees, point estimates and credible set of a network",
    }
    return {"sbn": sbn.get(task), "tumour": TUMOUR[task][1] if task in TUMOUR else None}.get(command) or COMMANDS[
        command
    ][1]


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for pages."""
    generate(Path(app.srcdir))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
