"""Finished runs as rows of a CSV file, so that an interrupted benchmark continues where it was stopped."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyro_ext.inference import FitResult, FitSettings, TrainingPlan, fit
from pyro_ext.utils.files import write_text

__all__ = ["FinishedRuns", "fit_or_continue", "metrics_so_far"]


class FinishedRuns:
    """The rows of a CSV file, one for each run that has finished.

    A last line that was left incomplete, and rows without all columns, count as runs that have not finished. Rows of
    a file of JSON lines with the same name, which earlier versions wrote, count as well.

    Args:
        path: the file; it is made with the first run.
        key: the columns by which runs are told from each other.
    """

    def __init__(self, path: Path, key: tuple[str, ...] = ("run",)) -> None:
        self.path, self.key = path, key
        self.rows: dict[tuple[str, ...], dict[str, str]] = {}
        self._columns: list[str] = []
        old = path.with_suffix(".jsonl")
        for line in old.read_text().splitlines() if old.exists() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            value = entry["value"]
            self._keep((entry["key"],), value if isinstance(value, dict) else {"value": value})
        if path.exists():
            text = path.read_text()
            complete = text[: text.rfind("\n") + 1]
            if complete != text:
                write_text(path, complete)
            reader = csv.DictReader(complete.splitlines())
            self._columns = [*(reader.fieldnames or [])]
            for row in reader:
                if None not in row and None not in row.values():
                    self.rows[tuple(row[name] for name in key)] = row

    def find(self, key: str | tuple[object, ...]) -> dict[str, Any] | None:
        """Return the results of a run, None if it has not finished.

        Args:
            key: what the run is told from others by.
        """
        row = self.rows.get(self._words(key))
        if row is None:
            return None
        return {name: _value(text) for name, text in row.items() if name not in self.key and text != ""}

    def get(self, key: str | tuple[object, ...], run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return the results of a run, which is carried out and noted if it has not been.

        Args:
            key: what the run is told from others by.
            run: carries it out; returns numbers, texts or lists of numbers by the names of their columns.
        """
        words = self._words(key)
        if words not in self.rows:
            print(f"{', '.join(words)} ...", flush=True)
            row = self._keep(words, run())
            self._write(row)
            results = [f"{name} {text}" for name, text in row.items() if name not in self.key]
            print(f"{', '.join(words)} | {', '.join(results)}", flush=True)
        found = self.find(key)
        assert found is not None
        return found

    def _words(self, key: str | tuple[object, ...]) -> tuple[str, ...]:
        return (key,) if isinstance(key, str) else tuple(str(part) for part in key)

    def _keep(self, words: tuple[str, ...], results: Mapping[str, Any]) -> dict[str, str]:
        row = dict(zip(self.key, words, strict=True)) | {name: _text(value) for name, value in results.items()}
        self.rows[words] = row
        return row

    def _write(self, row: Mapping[str, str]) -> None:
        """Append a row; where it has columns that the file lacks, write the file anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        missing = [name for name in row if name not in self._columns]
        if missing:
            self._columns += missing
            write_text(self.path, self._lines([*self.rows.values()], header=True))
            return
        with self.path.open("a", newline="") as file:
            file.write(self._lines([row], header=False))
            file.flush()
            os.fsync(file.fileno())

    def _lines(self, rows: list[Mapping[str, str]], header: bool) -> str:
        columns = dict.fromkeys([*self._columns, *(name for row in rows for name in row)])
        self._columns = [*columns]
        lines = io.StringIO()
        writer = csv.DictWriter(lines, self._columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return lines.getvalue()


def metrics_so_far(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of each epoch of a run, finished or not; none if it has not begun.

    Args:
        folder: the folder of the run, by ``fit``.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: float(text) for name, text in row.items() if name and text} for row in csv.DictReader(file)]


def _text(value: Any) -> str:
    """Return a cell: numbers have six digits, lists are JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, list) else f"{value:.6g}"


def _value(text: str) -> Any:
    """Return what a cell holds."""
    if text.startswith("["):
        return json.loads(text)
    try:
        return float(text)
    except ValueError:
        return text


def fit_or_continue(
    plan: TrainingPlan, data: Any, settings: FitSettings, folder: Path | None, **trainer: Any
) -> FitResult:
    """Train without a bar, from the last checkpoint in the folder if there is one; on the CPU unless told otherwise.

    Args:
        plan: what to train.
        data: the data.
        settings: the number of epochs, the size of a batch and the seed.
        folder: the folder of the run; None to keep nothing.
        **trainer: further arguments of :func:`~pyro_ext.inference.fit`.
    """
    begun = folder is not None and (folder / "last.ckpt").is_file()
    options = {"accelerator": "cpu", "enable_progress_bar": False, **trainer}
    return fit(plan, data, settings, out=folder, resume=begun, overwrite=folder is not None and not begun, **options)
