"""The reference: a page for every module that ``reference.md`` lists, and for every public name of theirs.

Each name has one page, under the first module that exports it; the tables of other modules link to that page.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from pages import title, toctree, write_folder
from sphinx.application import Sphinx

_SIDEBARS: dict[str, str] = {}


def listed_modules(source: Path) -> list[str]:
    """Return the modules whose pages ``reference.md`` lists, in order."""
    return re.findall(r"^reference/(pyro_ext\S*)$", (source / "reference.md").read_text(), re.M)


def _public_names(module: Any) -> list[str]:
    return [name for name in getattr(module, "__all__", ()) if not inspect.ismodule(getattr(module, name))]


def _key(name: str, value: Any) -> tuple[str, int]:
    return ("" if inspect.isclass(value) or inspect.isroutine(value) else name, id(value))


def owners(modules: list[str]) -> dict[tuple[str, int], str]:
    """Return the path under which each public object has its page."""
    found: dict[tuple[str, int], str] = {}
    for path in modules:
        module = import_module(path)
        for name in _public_names(module):
            found.setdefault(_key(name, getattr(module, name)), f"{path}.{name}")
    return found


def _object_page(path: str, value: Any) -> str:
    kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
    module, _, name = path.rpartition(".")
    members = "   :members:\n" if kind == "class" else ""
    return f"{title(name)}\n.. currentmodule:: {module}\n\n.. auto{kind}:: {path}\n{members}"


def _heading(line: str) -> str:
    """Return the first line of a file as a heading: what stands before the colon of a long one."""
    line = " ".join(line.split()).rstrip(".")
    return line.partition(":")[0] if len(line) > 60 or "`" in line else line


def _groups(path: str, names: list[str]) -> dict[str, list[str]]:
    """Return names by what the first line of their file says; those alone in their file come first, untitled."""
    module = import_module(path)
    groups: dict[str, list[str]] = {}
    for name in names:
        value = getattr(module, name)
        where = getattr(value, "__module__", None) or ""
        part = where.removeprefix(path + ".").partition(".")[0] if where.startswith(path + ".") else ""
        line = (inspect.getdoc(import_module(f"{path}.{part}")) or "").partition("\n\n")[0] if part else ""
        groups.setdefault(_heading(line), []).append(name)
    alone = [name for line, own in groups.items() if line and len(own) == 1 for name in own]
    together = {line: own for line, own in groups.items() if line and len(own) > 1}
    return {"": sorted(alone + groups.get("", []), key=names.index), **together}


def _module_page(path: str, own: dict[str, str]) -> str:
    module = import_module(path)
    parts = [title(path), f".. automodule:: {path}\n"]
    for line, names in _groups(path, list(own)).items():
        # A table shows the first line of a docstring; that of a constant is the one of its type.
        plain = [n for n in names if not (inspect.isclass(getattr(module, n)) or inspect.isroutine(getattr(module, n)))]
        names = [name for name in names if name not in plain]
        if plain:
            constants = ", ".join(f":obj:`~{own[name]}`" for name in plain)
            parts.append(f"Constants: {constants}\n")
        if names:
            # Names of another module's pages in full, those of this one short, as autosummary wants them.
            here = f"{path}."
            table = "".join(
                f"   {own[name].removeprefix(here) if own[name] == here + name else '~' + own[name]}\n"
                for name in names
            )
            # A long first line is a sentence, not a heading.
            parts.append(f"{title(line, '-')}\n" if line and "`" not in line else f"{line}\n")
            parts.append(f".. autosummary::\n   :nosignatures:\n\n{table}")
    pages = [page for page in own.values() if page.rpartition(".")[0] == path]
    if pages:
        parts.append(toctree(pages))
    return "\n".join(parts)


def generate(source: Path) -> None:
    """Write all pages of the reference."""
    modules = listed_modules(source)
    found = owners(modules)
    pages: dict[str, str] = {}
    for path in modules:
        module = import_module(path)
        own = {name: found[_key(name, getattr(module, name))] for name in _public_names(module)}
        pages[f"{path}.rst"] = _module_page(path, own)
        for name, page in own.items():
            pages.setdefault(f"{page}.rst", _object_page(page, getattr(module, name)))
    write_folder(source / "reference", pages)


def sidebar(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Let the sidebar of a page list its own surroundings only.

    Hundreds of names on every page would be slow to load. Names of the same module share their sidebar, in which each
    is marked: to make it anew for every page would take most of the time of a build.
    """
    whole = context.get("toctree")
    module = pagename.rpartition(".")[0]
    if whole is None:
        return
    if not pagename.startswith("reference/") or module not in app.env.found_docs:
        context["toctree"] = lambda **options: whole(**{**options, "collapse": True})
        return
    known = _SIDEBARS
    if module not in known:
        local = app.builder._get_local_toctree
        known[module] = local(module, collapse=True, titles_only=True, maxdepth=-1, includehidden=True)
    link = f'href="{pagename.removeprefix("reference/")}.html"'
    marked = re.sub(rf'class="(reference internal)" {re.escape(link)}', rf'class="current \1" {link}', known[module])
    context["toctree"] = lambda **options: marked


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for pages."""
    generate(Path(app.srcdir))
    app.connect("html-page-context", sidebar, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
