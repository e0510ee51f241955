"""Files that exist only while the site is built: written where they differ, removed where nothing asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_folder(folder: Path, pages: Mapping[str, str]) -> None:
    """Make a folder hold these pages and nothing else; a page that has not changed keeps its time.

    Args:
        folder: the folder.
        pages: the text of each file by its path within the folder.
    """
    wanted = {folder / name: text for name, text in pages.items()}
    for path in list(folder.rglob("*")):
        if path.is_file() and path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def title(text: str, line: str = "=") -> str:
    """Return a heading of reStructuredText."""
    return f"{text}\n{line * len(text)}\n"


def plain(text: str) -> str:
    """Return text with everything escaped that reStructuredText would read as markup."""
    for character in "\\*`_|":
        text = text.replace(character, "\\" + character)
    return text


def toctree(pages: list[str], hidden: bool = True) -> str:
    """Return a table of contents."""
    option = "   :hidden:\n" if hidden else "   :maxdepth: 1\n"
    return ".. toctree::\n" + option + "\n" + "".join(f"   {page}\n" for page in pages)
