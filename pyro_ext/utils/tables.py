"""Tables as Markdown and as comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["csv_table", "markdown_table"]


def markdown_table(rows: Sequence[Sequence[object]], header: Sequence[str], left: Iterable[int] = (0,)) -> str:
    """Return a Markdown table with straight columns.

    Args:
        rows: the cells, as many in each row as there are columns; what is no text is turned into it.
        header: the names of the columns.
        left: the places of the columns that are aligned to the left; all others are aligned to the right.

    Raises:
        ValueError: if a row has another number of cells than the header.

    Example:
        >>> print(markdown_table([["unordered", 20.3], ["enumerated", 4]], ["estimator", "loss"]))
        | estimator  | loss |
        |:-----------|-----:|
        | unordered  | 20.3 |
        | enumerated |    4 |
    """
    lines = [[*header], *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f"rows must hold {len(header)} cells each, as the header does")
    to_left = set(left)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruler = [f":{'-' * (width + 1)}" if at in to_left else f"{'-' * (width + 1)}:" for at, width in enumerate(widths)]
    first, *others = (
        "| " + " | ".join(_aligned(cell, widths[at], at in to_left) for at, cell in enumerate(line)) + " |"
        for line in lines
    )
    return "\n".join([first, f"|{'|'.join(ruler)}|", *others])


def csv_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None, header: bool = True) -> str:
    """Return rows as comma-separated values, each on a line that ends in a newline character.

    Args:
        rows: values by the names of their columns; what a row lacks is left empty.
        columns: the columns in order; by default all that occur, in the order in which they first do.
        header: whether the first line holds the names.

    Example:
        >>> print(csv_table([{"epoch": 1, "loss": 2.5}, {"epoch": 2}]), end="")
        epoch,loss
        1,2.5
        2,
    """
    names = list(dict.fromkeys(name for row in rows for name in row)) if columns is None else [*columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _aligned(cell: str, width: int, to_left: bool) -> str:
    return cell.ljust(width) if to_left else cell.rjust(width)
