"""Finished runs as rows of a CSV file, so that an interrupted benchmark continues where it was stopped."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["FinishedRuns"]


class FinishedRuns:
    """The rows of a CSV file, one for each run that has finished; a last line that was left incomplete is removed.

    Args:
        path: the file; it is made with the first run.
        key: the columns by which runs are told from each other.
    """

    def __init__(self, path: Path, key: tuple[str, ...]) -> None:
        self.path, self.key = path, key
        self._rows: dict[tuple[str, ...], dict[str, str]] = {}
        if path.exists():
            text = path.read_text()
            complete = text[: text.rfind("\n") + 1]
            if complete != text:
                path.write_text(complete)
            self._rows = {tuple(row[name] for name in key): row for row in csv.DictReader(complete.splitlines())}

    def get(self, key: tuple[object, ...], run: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Return the results of a run, which is carried out and noted if it has not been.

        Args:
            key: what the run is told from others by.
            run: carries it out; returns numbers by the names of their columns, the same ones for all runs.
        """
        words = tuple(str(part) for part in key)
        if words not in self._rows:
            results = {name: f"{value:.6g}" for name, value in run().items()}
            row = dict(zip(self.key, words, strict=True)) | results
            new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, [*row])
                if new:
                    writer.writeheader()
                writer.writerow(row)
            self._rows[words] = row
            print(", ".join(words), "|", ", ".join(f"{name} {value}" for name, value in results.items()), flush=True)
        return {name: float(value) for name, value in self._rows[words].items() if name not in self.key}
