"""A page for every model of the registry, and the bibliography."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

from api import listed_modules
from options import describe
from pages import plain, title, toctree, write_folder
from results import ROOT, newest, title_of
from sphinx.application import Sphinx

_ARXIV = re.compile(r"arXiv[\s:]+(\d{4}\.\d{4,5})")
_CITED = re.compile(r"arXiv(?:\.org/abs/|[\s:]+)(\d{4}\.\d{4,5})", re.IGNORECASE)
_DOI = re.compile(r"doi (10\.\S+[^\s.,;])")


def linked(paper: str) -> str:
    """Return a reference with links to arXiv and to its DOI."""
    text = _ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", plain(paper))
    return _DOI.sub(r"`doi \1 <https://doi.org/\1>`__", text)


def _sentence(text: str) -> str:
    return plain(text[0].upper() + text[1:]) + "."


def _benchmarks(name: str, module: str) -> list[str]:
    """Return the benchmarks whose script names a model."""
    family = ".".join(module.split(".")[:3])
    word = re.compile(rf"{re.escape(family)}\b|[\"']{name}[\"']|\bfit {name}\b")
    scripts = {stem: ROOT / "benchmarks" / f"{stem}.py" for stem in newest()}
    return [stem for stem, path in scripts.items() if path.exists() and word.search(path.read_text())]


def _page(name: str, modules: list[str]) -> str:
    from pyro_ext import datasets
    from pyro_ext.cli.fit.arguments import fit_parser
    from pyro_ext.cli.program import Program
    from pyro_ext.models import MODELS

    entry = MODELS[name]
    program = Program.named(name, None)
    loader = datasets.AVAILABLE[entry.data].__name__
    inside = [path for path in modules if path == entry.module or path.startswith(entry.module + ".")]
    own = ", ".join(f":doc:`{path} </reference/{path}>`" for path in inside)
    # Files have no default: an alignment has to be there first.
    data = " --data alignment.fasta --trees run1.trprobs" if entry.files else ""
    parts = [
        title(name),
        _sentence(entry.summary) + "\n",
        f":Paper: {linked(entry.paper)}",
        f":Data: :func:`{entry.data} <pyro_ext.datasets.{loader}>` unless told otherwise",
        f":Reference: {own}" if own else "",
        "",
        f".. code-block:: console\n\n   $ pyro-ext fit {name}{data}\n   $ pyro-ext fit {name}{data} --help\n",
        title("What it is", "-"),
        f".. automodule:: {entry.module}\n   :no-members:\n   :no-index:\n",
    ]
    stems = _benchmarks(name, entry.module)
    if stems:
        files = newest()
        parts.append(title("Figures reached", "-"))
        parts += [
            f"* :doc:`{title_of(files[stem])} </benchmarks/{stem}>`, from ``benchmarks/results/{files[stem].name}``"
            for stem in stems
        ]
        parts.append("")
    parts.append(title("Options of its own", "-"))
    parts.append(f"Those of training are the same for all models: :doc:`/commands/fit`.{_defaults(name)}\n")
    parser = fit_parser(program)
    parts.append(describe(parser, f"pyro-ext fit {name}", _of_the_model, "~"))
    return "\n".join(parts)


def _of_the_model(option: str) -> bool:
    return option.startswith(("--model.", "--data.")) or option in ("--trees", "--golden")


def _defaults(name: str) -> str:
    from pyro_ext.models import MODELS

    other = {k: v for k, v in MODELS[name].defaults.items() if not k.startswith("data.")}
    return " Defaults of this model: " + ", ".join(f"``--{k} {v}``" for k, v in other.items()) + "." if other else ""


def bibliography(modules: list[str]) -> str:
    """Return the page of papers: those of models in full, and where each number of arXiv is cited."""
    from pyro_ext.models import MODELS

    papers: dict[str, list[str]] = {}
    for name, entry in MODELS.items():
        for paper in re.split(r"; (?=[A-Z])", entry.paper):
            papers.setdefault(paper, []).append(name)
    parts = [title("Bibliography"), title("Papers of the models", "-")]
    for paper, names in sorted(papers.items()):
        parts.append(f"* {linked(paper)}. " + ", ".join(f":doc:`models/{name}`" for name in names) + ".")
    cited: dict[str, set[str]] = {}
    for path in modules:
        module = import_module(path)
        docs = [(f":mod:`{path}`", module.__doc__)]
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isroutine(value)) and name != "main":
                docs.append((f":obj:`~{path}.{name}`", value.__doc__))
        for link, text in docs:
            for number in _CITED.findall(text or ""):
                cited.setdefault(number, set()).add(link)
    parts += ["", title("Papers by their number on arXiv", "-"), "The names are those whose documentation cites it.\n"]
    parts.append(".. list-table::\n   :widths: 20 80\n")
    for number, links in sorted(cited.items()):
        parts.append(f"   * - `{number} <https://arxiv.org/abs/{number}>`__\n     - {', '.join(sorted(links))}")
    return "\n".join(parts) + "\n"


def generate(source: Path) -> None:
    """Write all pages of models, and the bibliography."""
    from pyro_ext.models import MODELS

    modules = listed_modules(source)
    names = sorted(MODELS)
    pages = {f"{name}.rst": _page(name, modules) for name in names}
    rows = "".join(f"   * - :doc:`{name}`\n     - {_sentence(MODELS[name].summary)}\n" for name in names)
    intro = (
        "``pyro-ext fit NAME`` trains each of these on data that is at hand, and writes a report, plots, metrics and\n"
        "a checkpoint. Each page names the paper, the options, and the results that were measured.\n"
    )
    table = f".. list-table::\n   :widths: 25 75\n\n{rows}"
    pages["index.rst"] = f"{title('Models')}\n{intro}\n{table}\n{toctree(names)}"
    write_folder(source / "models", pages)
    (source / "bibliography.rst").write_text(bibliography(modules))


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for pages."""
    generate(Path(app.srcdir))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
