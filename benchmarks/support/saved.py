"""Results that outlive an interrupted benchmark."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["SavedResults"]


class SavedResults:
    """Results in a file, one JSON object a line, by key; a line that an interrupted run left incomplete is skipped.

    Args:
        path: the file; it is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            self._values[entry["key"]] = entry["value"]

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return the result saved under a key, or compute and save it."""
        if key not in self._values:
            print(f"{key} ...", flush=True)
            self._values[key] = compute()
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, "value": self._values[key]}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return self._values[key]
