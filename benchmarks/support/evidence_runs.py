"""Estimates of the evidence, saved line by line in a file so that a stopped run can be continued."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyro_ext.inference.evidence import EvidenceSettings, EvidenceWarning, compare_evidence
from pyro_ext.models.phylo import FixedTopology

__all__ = ["Group", "Record", "Store", "run_group"]


@dataclass(frozen=True)
class Group:
    """Methods that run together because they share samples.

    Args:
        name: the name of the group.
        methods: the names of the methods in the group.
        settings: the numbers of samples, steps and chains of these methods.
    """

    name: str
    methods: tuple[str, ...]
    settings: EvidenceSettings

    @property
    def sizes(self) -> str:
        """The settings that differ from the defaults, as text."""
        usual = asdict(EvidenceSettings())
        own = {name: value for name, value in asdict(self.settings).items() if value != usual[name]}
        return ", ".join(f"{name}={value}" for name, value in own.items() if name != "batch_size")


@dataclass(frozen=True)
class Record:
    """One estimate: the tree, the method, its settings and the result.

    ``share`` is the share of a processor core that the group had; seconds times share is the time on an idle machine.
    """

    tree: int
    seed: int
    method: str
    sizes: str
    log_evidence: float
    std_error: float
    seconds: float
    is_score: bool
    figures: dict[str, float]
    warning: str
    share: float = math.nan


class Store:
    """Records in a file, one JSON object per line; a line that a stopped run left incomplete is ignored.

    Args:
        path: the file; it is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._records: dict[tuple[int, int, str, str], Record] = {}
        text = path.read_text() if path.exists() else ""
        for line in text.splitlines():
            try:
                self._remember(Record(**json.loads(line)))
            except json.JSONDecodeError:
                continue
        if text and not text.endswith("\n"):
            with path.open("a") as file:
                file.write("\n")

    def find(self, tree: int, seed: int, group: Group) -> list[Record] | None:
        """Return the records of a group for a tree, or None if they are not complete."""
        records = [self._records.get((tree, seed, method, group.sizes)) for method in group.methods]
        return None if None in records else [record for record in records if record is not None]

    def add(self, records: Iterable[Record]) -> None:
        """Add the records of a group."""
        lines = []
        for record in records:
            self._remember(record)
            lines.append(json.dumps(asdict(record)) + "\n")
        with self._path.open("a") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())

    def _remember(self, record: Record) -> None:
        self._records[record.tree, record.seed, record.method, record.sizes] = record


def run_group(group: Group, model: FixedTopology, tree: int, seed: int) -> list[Record]:
    """Run a group's methods on the model of one tree."""
    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvidenceWarning)
        estimates = compare_evidence(model, methods=group.methods, settings=group.settings, seed=1000 * seed + tree)
    share = min(1.0, (time.process_time() - cpu) / (time.perf_counter() - wall))
    warning = "; ".join(dict.fromkeys(str(w.message) for w in caught))
    return [
        Record(
            tree=tree,
            seed=seed,
            method=method,
            sizes=group.sizes,
            log_evidence=estimate.log_evidence,
            std_error=estimate.std_error,
            seconds=estimate.seconds,
            is_score=estimate.is_score,
            figures=_numbers(estimate.diagnostics),
            warning=warning,
            share=share,
        )
        for method, estimate in estimates.items()
    ]


def _numbers(diagnostics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in diagnostics.items() if isinstance(value, (int, float))}
