"""The folder of a run: what lies in it, and who may write there."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["RunFolder", "write_atomically"]


class RunFolder:
    """A folder with one run's checkpoint and metrics. Nothing is created before :meth:`create`.

    Args:
        path: the folder.

    Raises:
        ValueError: if ``path`` is not a folder and cannot become one, or nothing can be written there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns: list[str] | None = None
        _check_writable(self.path)

    @property
    def checkpoint(self) -> Path:
        """Where the last checkpoint lies."""
        return self.path / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """Where the metrics lie, one row per epoch."""
        return self.path / "metrics.csv"

    def check_empty(self) -> None:
        """Raise a ValueError if the folder holds anything."""
        if self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                f"out={str(self.path)!r} is not empty; choose another folder, or continue the run in it with "
                "resume=True (--resume)"
            )

    def load_checkpoint(self) -> dict[str, Any]:
        """Return the last checkpoint, on the CPU.

        Raises:
            ValueError: if there is none, or it was not written by ``fit``.
        """
        if not self.checkpoint.is_file():
            raise ValueError(f"resume=True, but {str(self.checkpoint)!r} does not exist; start the run without resume")
        try:
            checkpoint = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            checkpoint["fit"]["settings"]
        except Exception as error:
            raise ValueError(f"{str(self.checkpoint)!r} is not a checkpoint written by fit: {error!r}") from error
        return checkpoint

    def create(self) -> None:
        """Create the folder."""
        self.path.mkdir(parents=True, exist_ok=True)

    def write_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Bring ``metrics.csv`` up to date; a row already written is written again only if the columns changed."""
        columns = list(dict.fromkeys(name for row in history for name in row))
        if columns and columns == self._columns:
            with self.metrics.open("a", newline="") as file:
                file.write(_csv(columns, history[-1:], header=False))
        else:
            write_atomically(self.metrics, _csv(columns, history, header=True))
        self._columns = columns


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to a file that is at no time seen half written."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, float]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _check_writable(path: Path) -> None:
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise ValueError(f"out={str(path)!r} cannot be a folder: {str(existing)!r} is a file; choose another path")
    try:
        # Access bits do not tell on every file system, so make something there and take it away.
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"out={str(path)!r} cannot be written to: {error.strerror}; choose another path") from error
