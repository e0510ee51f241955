"""Tutorials are scripts in the percent format; Sphinx reads copies of them as notebooks of Python, executed or not.

Copies, because links between pages do not work across a link of the file system.
"""

from __future__ import annotations

from pathlib import Path

import jupytext
from nbformat import NotebookNode
from pages import write_folder
from sphinx.application import Sphinx

TUTORIALS = Path(__file__).resolve().parents[2] / "tutorials"


def read(text: str) -> NotebookNode:
    """Return the notebook of a script."""
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook


def setup(app: Sphinx) -> dict[str, bool]:
    """Copy the tutorials before Sphinx looks for pages."""
    files = [path for path in TUTORIALS.rglob("*") if path.suffix in (".py", ".md")]
    pages = {path.relative_to(TUTORIALS).as_posix(): path.read_text(encoding="utf-8") for path in files}
    write_folder(Path(app.srcdir) / "tutorials", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
