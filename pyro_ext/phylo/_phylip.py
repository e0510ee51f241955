"""Relaxed PHYLIP: names end at a blank; sequences on one line each, wrapped, or interleaved in blocks."""

from __future__ import annotations

__all__ = ["phylip_records"]

_Lines = list[tuple[int, list[str]]]


def phylip_records(text: str) -> list[tuple[str, str]]:
    """Return names and sequences.

    Args:
        text: two numbers, those of taxa and of columns, then the sequences.

    Raises:
        ValueError: if they are not as many, or as long, as the numbers say.
    """
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    (_, head), lines = rows[0], rows[1:]
    if len(head) < 2 or not all(number.isdigit() for number in head[:2]):
        raise ValueError(f"the first line must hold the numbers of taxa and of columns, got {' '.join(head)!r}")
    taxa, columns = int(head[0]), int(head[1])
    for read in (_interleaved, _one_after_the_other):
        found = read(lines, taxa, columns)
        if len(found) == taxa and all(len(sequence) == columns for _, sequence in found):
            return found
    raise ValueError(_what_is_wrong(lines, taxa, columns))


def _interleaved(lines: _Lines, taxa: int, columns: int) -> list[tuple[str, str]]:
    """Read blocks of one line for each taxon, with names in the first block; one block is the plain case."""
    first, more = lines[:taxa], lines[taxa:]
    if not taxa or len(more) % taxa:
        return []
    found = [list(words) for _, words in first]
    for place, (_, words) in enumerate(more):
        found[place % taxa] += words
    return [(name, "".join(parts)) for name, *parts in found]


def _one_after_the_other(lines: _Lines, taxa: int, columns: int) -> list[tuple[str, str]]:
    """Read each sequence to its end, over as many lines as it takes, before the next name."""
    found: list[tuple[str, str]] = []
    for _, words in lines:
        if not found or len(found[-1][1]) >= columns:
            found.append((words[0], "".join(words[1:])))
        else:
            found[-1] = (found[-1][0], found[-1][1] + "".join(words))
    return found


def _what_is_wrong(lines: _Lines, taxa: int, columns: int) -> str:
    said = f"the first line says {taxa} taxa and {columns} columns"
    if len(lines) < taxa:
        return f"{said}, but only {len(lines)} lines follow: the file is truncated, or names do not end at a blank"
    odd = next((number for number, words in lines[:taxa] if len(words) < 2), None)
    if odd is not None:
        return f"{said}, but line {odd} is no name and sequence with a blank between"
    if len(lines) == taxa:
        number, words = next((n, w) for n, w in lines if sum(map(len, w[1:])) != columns)
        return f"{said}, but the sequence of {words[0]!r} in line {number} has {sum(map(len, words[1:]))}"
    return f"{said}, but the {len(lines)} lines that follow are no sequences of this number and length"
