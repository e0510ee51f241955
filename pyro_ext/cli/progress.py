"""A progress bar on a terminal, and lines now and then where there is none."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

__all__ = ["ProgressLines", "progress_bar"]

_EVERY = 30.0  # seconds between lines


class ProgressLines:
    """Stands for a progress bar where lines cannot be written over: prints one now and then, and one at the end.

    Args:
        total: the number of steps.
        unit: what a step is.
        description: what is done.
        every: the seconds between lines.

    Example:
        >>> import contextlib
        >>> with contextlib.redirect_stderr(sys.stdout), ProgressLines(3, "epoch", "weights") as lines:
        ...     lines.update(3)
        weights: 3/3 epochs
    """

    def __init__(self, total: int, unit: str, description: str = "", every: float = _EVERY) -> None:
        self.total = total
        self.unit = unit
        self.every = every
        self.n = 0
        self._description = description
        self._postfix = ""
        self._last = time.monotonic()
        self._printed = ""

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._print()

    def update(self, steps: float = 1) -> None:
        """Note that so many more steps have been taken, and print a line if it is time."""
        self.n += int(steps)
        if time.monotonic() - self._last >= self.every:
            self._print()

    def set_description(self, text: str) -> None:
        """Change what the lines begin with."""
        self._description = text

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Change what the lines end in."""
        self._postfix = text

    def _print(self) -> None:
        self._last = time.monotonic()
        before = f"{self._description}: " if self._description else ""
        after = f", {self._postfix}" if self._postfix else ""
        line = f"{before}{self.n}/{self.total} {self.unit}s{after}"
        if line != self._printed:
            print(line, file=sys.stderr, flush=True)
        self._printed = line


def progress_bar(total: int, unit: str, description: str = "") -> Any:
    """Return a progress bar to use in a ``with`` block: that of tqdm on a terminal, :class:`ProgressLines` elsewhere.

    Args:
        total: the number of steps.
        unit: what a step is.
        description: what is done.
    """
    if not sys.stderr.isatty():
        return ProgressLines(total, unit, description)
    return tqdm(total=total, unit=unit, desc=description or None, dynamic_ncols=True)
