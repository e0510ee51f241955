"""The folder of a run: what lies in it, and who may write there."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from pyro_ext.utils.files import check_folder, write_text
from pyro_ext.utils.tables import csv_table

__all__ = ["BusyFolderError", "RunFolder"]

_OF_A_RUN = ("last.ckpt", "metrics.csv", "config.yaml", "report.md", "*.png")
"""What a run writes into its folder, besides files that its plan names."""

_BEFORE_THE_FIRST_CHECKPOINT = {"config.yaml", ".config.partial.yaml", ".last.partial.ckpt", ".lock", "logs"}
"""What a run may leave that was broken off before its first checkpoint."""


class BusyFolderError(ValueError):
    """Another run is writing to the folder."""


class RunFolder:
    """A folder with one run's checkpoint and metrics. Nothing is created before :meth:`taken`.

    Args:
        path: the folder.

    Raises:
        ValueError: if ``path`` is not a folder and cannot become one, or nothing can be written there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = check_folder("out", path)
        self._columns: list[str] | None = None
        self._leftovers: list[Path] = []

    @property
    def checkpoint(self) -> Path:
        """Where the last checkpoint lies."""
        return self.path / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """Where the metrics lie, one row per epoch."""
        return self.path / "metrics.csv"

    @property
    def config(self) -> Path:
        """Where the command line notes its options."""
        return self.path / "config.yaml"

    @property
    def never_began(self) -> bool:
        """Whether a run was broken off here before its first checkpoint, and nothing else is in the folder."""
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        return bool(names) and names <= _BEFORE_THE_FIRST_CHECKPOINT

    def check_empty(self, overwrite: bool = False, files: Sequence[str] = ()) -> None:
        """Raise a ValueError if the folder holds anything but what a run leaves before its first checkpoint.

        Args:
            overwrite: whether it may hold an earlier run, whose files are removed once training begins.
            files: names of further files that a run of this plan writes.
        """
        if not (self.path.is_dir() and any(self.path.iterdir())) or self.never_began:
            return
        if not overwrite:
            raise ValueError(
                f"out={str(self.path)!r} is not empty; choose another folder, continue the run in it with "
                "resume=True (--resume), or replace it with overwrite=True (--overwrite)"
            )
        self._leftovers = [path for name in (*_OF_A_RUN, *files) for path in self.path.glob(name) if path.is_file()]
        if not any(path.name in ("last.ckpt", "metrics.csv") for path in self._leftovers):
            raise ValueError(f"out={str(self.path)!r} holds no run that could be overwritten; choose another folder")

    def load_checkpoint(self) -> dict[str, Any]:
        """Return the last checkpoint, on the CPU.

        Raises:
            ValueError: if there is none, it is damaged, or it was not written by ``fit``.
        """
        if not self.checkpoint.is_file():
            raise ValueError(f"resume=True, but {str(self.checkpoint)!r} does not exist; start the run without resume")
        try:
            damaged = zipfile.ZipFile(self.checkpoint).testzip()  # PyTorch does not look at the checksums
            checkpoint = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            checkpoint["fit"]["settings"]
        except Exception as error:
            raise ValueError(f"{str(self.checkpoint)!r} is not a checkpoint written by fit: {error!r}") from error
        if damaged is not None:
            raise ValueError(f"{str(self.checkpoint)!r} is damaged: the checksum of its part {damaged!r} is wrong")
        return checkpoint

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Make the folder and keep it for one run alone, until the block ends.

        Files of an earlier run that is to be replaced are removed.

        Raises:
            BusyFolderError: if another run is writing there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"out={str(self.path)!r} is being written to by another run; choose another folder"
            ) from None
        try:
            for path in self._leftovers:
                path.unlink(missing_ok=True)
            self._leftovers = []
            yield
        finally:
            (self.path / ".lock").unlink(missing_ok=True)
            lock.release()

    def complete_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write ``metrics.csv`` anew if it does not hold the whole history, as after a kill before its last row."""
        text = csv_table(history)
        if history and (not self.metrics.is_file() or self.metrics.read_text(encoding="utf-8") != text):
            write_text(self.metrics, text)

    def write_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Bring ``metrics.csv`` up to date; a row already written is written again only if the columns changed."""
        columns = list(dict.fromkeys(name for row in history for name in row))
        if columns and columns == self._columns:
            with self.metrics.open("a", newline="") as file:
                file.write(csv_table(history[-1:], columns, header=False))
        else:
            write_text(self.metrics, csv_table(history, columns))
        self._columns = columns
