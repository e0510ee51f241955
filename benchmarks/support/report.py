"""Results as Markdown: printed as soon as they are known, and saved in a dated file on request."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pyro_ext.utils.files import write_text
from pyro_ext.utils.tables import markdown_table

__all__ = ["Report"]

_FOLDER = Path(__file__).resolve().parents[1] / "results"
_PACKAGES = ("torch", "pyro-ppl", "pyro-ext", "storchastic", "numpy")


class Report:
    """Collects the lines of a report.

    Args:
        name: the name of the script, with which the name of the file begins.
        title: the heading of the report.
    """

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self._lines: list[str] = []
        self.text(f"# {title}", "", *_circumstances(), "")

    def text(self, *lines: str) -> None:
        """Add lines as they are."""
        for line in lines:
            print(line, flush=True)
        self._lines.extend(lines)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], labels: int = 1) -> None:
        """Add a table whose first ``labels`` columns hold text and the others numbers."""
        self.text(f"## {title}", "", *markdown_table(rows, header, left=range(labels)).splitlines(), "")

    def check(self, passed: bool, requirement: str) -> None:
        """Add a line that says whether a requirement is met."""
        self.text(f"- {'PASS' if passed else 'FAIL'}: {requirement}")

    def save(self, rows: Path | None = None, beside: Mapping[str, Path] | None = None) -> Path:
        """Write the report into ``benchmarks/results`` and return its path.

        What a person wrote under the heading "Reading" of a report that it replaces is kept, at the end.

        Args:
            rows: the file of finished runs, which is copied beside the report under its name; None for none.
            beside: further files to copy, plots for example, by what their names end in. Those that do not exist, of
                parts that have not been run, are left out.
        """
        path = _FOLDER / f"{self.name}-{datetime.date.today().isoformat()}-{_slug(_processor())}.md"
        path.parent.mkdir(exist_ok=True)
        text = "\n".join(self._lines).rstrip() + "\n"
        write_text(path, text + (_reading(path.read_text()) if path.exists() else ""))
        if rows is not None and rows.exists():
            shutil.copyfile(rows, path.with_suffix(".csv"))
        for name, file in (beside or {}).items():
            if file.exists():
                shutil.copyfile(file, path.with_name(f"{path.stem}-{name}"))
        return path


def _reading(text: str) -> str:
    """Return the section "Reading" of a report, with an empty line before; nothing if there is none."""
    section = re.search(r"^## Reading\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return f"\n{section.group().rstrip()}\n" if section else ""


def _circumstances() -> list[str]:
    installed = {name: _version(name) for name in _PACKAGES}
    versions = ", ".join(f"{name} {version}" for name, version in installed.items() if version)
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return [
        f"- {datetime.date.today().isoformat()}, {_processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads{load}",
        f"- {platform.system()}, Python {platform.python_version()}, {versions}",
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    line = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return line.group(1).strip() if line else platform.processor() or platform.machine()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
