"""Results as Markdown: printed while they come, kept in a dated file if asked for."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

__all__ = ["Report"]

_FOLDER = Path(__file__).resolve().parents[1] / "results"
_PACKAGES = ("torch", "pyro-ppl", "pyro-ext", "storchastic", "numpy")


class Report:
    """Collects the lines of a report.

    Args:
        name: the script's name, the first part of the file's.
        title: the first line.
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
        """Add a table, its columns padded to one width: the first ``labels`` hold text, the others numbers."""
        widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]
        rule = ["-" * width if i < labels else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
        lines = []
        for row in (header, rule, *rows):
            cells = zip(row, widths, strict=True)
            padded = [cell.ljust(w) if i < labels else cell.rjust(w) for i, (cell, w) in enumerate(cells)]
            lines.append(f"| {' | '.join(padded)} |")
        self.text(f"## {title}", "", *lines, "")

    def check(self, passed: bool, requirement: str) -> None:
        """Add a line that says whether a requirement is met."""
        self.text(f"- {'PASS' if passed else 'FAIL'}: {requirement}")

    def save(self) -> Path:
        """Write the report into ``benchmarks/results`` and return its path."""
        path = _FOLDER / f"{self.name}-{datetime.date.today().isoformat()}-{_slug(_processor())}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(self._lines).rstrip() + "\n", encoding="utf-8")
        return path


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
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
