"""Sequences in PHYLIP: on one line each, wrapped, or in blocks; names end at a blank or have ten characters."""

from __future__ import annotations

import re
from collections.abc import Callable

from pyro_ext.phylo.alignment import state_bits

__all__ = ["phylip_records"]

_Lines = list[tuple[int, str]]
"""Lines of a file that are not blank, and the number of each."""

_Records = list[tuple[str, list[str]]]
"""Names, and what stands on each line of a sequence."""

_TEN = 10  # characters of a name in PHYLIP's own format
_BLANKS = re.compile(r"\s+", re.ASCII)


def phylip_records(text: str, ten: bool) -> list[tuple[str, str]]:
    """Return names and sequences.

    There are two layouts, which look alike where each sequence has as many lines as there are taxa. Of those that give
    as many sequences, of such length, as the first line says, the one with distinct names and nucleotides is taken; if
    both have them, blocks if all lines of a block have the same length, and a sequence for each name.

    Args:
        text: the numbers of taxa and of columns, then the sequences.
        ten: whether names have ten characters, blanks included, and else end at a blank.

    Raises:
        ValueError: if the sequences are not as many, or as long, as the numbers say, or both layouts are possible.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if _joined(line)]
    head = lines.pop(0)[1].split()
    if len(head) < 2 or not all(re.fullmatch("[0-9]{1,12}", number) for number in head[:2]):
        raise ValueError(f"the first line must hold the numbers of taxa and of columns, got {' '.join(head)[:40]!r}")
    taxa, columns = int(head[0]), int(head[1])
    split = _ten_characters if ten else _first_word
    in_blocks, in_turn = _interleaved(lines, taxa, split), _one_after_the_other(lines, taxa, columns, split)
    fitting = [
        records
        for records in (in_blocks, in_turn)
        if len(records) == taxa and all(sum(map(len, parts)) == columns for _, parts in records)
    ]
    if not fitting:
        raise ValueError(_what_is_wrong(lines, taxa, columns, split, ten))
    good = [records for records in fitting if _is_alignment(records)] or [min(fitting, key=_num_wrong)]
    if len(good) > 1 and _whole(in_blocks) != _whole(in_turn):
        has_names_alone = not all(parts[0] for _, parts in in_blocks)  # as no file in blocks has
        good = [in_turn] if has_names_alone or not _is_even(in_blocks) else [in_blocks]
        if good == [in_blocks] and _is_even(in_turn):
            raise ValueError("the sequences may stand one after the other or in blocks: write each on one line")
    return _whole(good[0])


def _joined(text: str) -> str:
    return _BLANKS.sub("", text)


def _first_word(line: str) -> tuple[str, str]:
    name, *rest = _BLANKS.split(line.strip(" \t\f\v"), maxsplit=1)
    return name, _joined(rest[0]) if rest else ""


def _ten_characters(line: str) -> tuple[str, str]:
    return line[:_TEN].strip(" \t\f\v"), _joined(line[_TEN:])


_Split = Callable[[str], tuple[str, str]]


def _interleaved(lines: _Lines, taxa: int, split: _Split) -> _Records:
    """Read blocks of one line for each taxon, with names in the first block; one block is the plain case."""
    first, more = lines[:taxa], lines[taxa:]
    if not taxa or len(first) < taxa or len(more) % taxa:
        return []
    records = [(name, [cells]) for name, cells in (split(line) for _, line in first)]
    for place, (_, line) in enumerate(more):
        records[place % taxa][1].append(_joined(line))
    return records


def _one_after_the_other(lines: _Lines, taxa: int, columns: int, split: _Split) -> _Records:
    """Read each sequence to its end, over as many lines as it takes, before the next name."""
    records: _Records = []
    length = columns
    for _, line in lines:
        if length >= columns:
            if len(records) == taxa:
                return []
            name, cells = split(line)
            records.append((name, [cells]))
            length = len(cells)
        else:
            cells = _joined(line)
            records[-1][1].append(cells)
            length += len(cells)
    return records


def _whole(records: _Records) -> list[tuple[str, str]]:
    return [(name, "".join(parts)) for name, parts in records]


def _is_even(records: _Records) -> bool:
    """Return whether all sequences are broken into lines of the same lengths."""
    shapes = {tuple(map(len, parts)) for _, parts in records}
    return len(shapes) == 1


def _is_alignment(records: _Records) -> bool:
    return len({name for name, _ in records}) == len(records) and not _num_wrong(records)


def _num_wrong(records: _Records) -> int:
    return sum(int((state_bits(sequence) == 0).sum()) for _, sequence in _whole(records))


def _what_is_wrong(lines: _Lines, taxa: int, columns: int, split: _Split, ten: bool) -> str:
    said = f"the first line says {taxa} taxa and {columns} columns"
    hint = "" if ten else "; if names have ten characters, pass names='ten'"
    if len(lines) < taxa:
        return (
            f"{said}, but only {len(lines)} lines follow: the file is truncated, or names do not end at a blank{hint}"
        )
    odd = next((number for number, line in lines[:taxa] if not split(line)[1]), None)
    if odd is not None:
        between = "of ten characters and a sequence" if ten else "and sequence with a blank between"
        return f"{said}, but line {odd} is no name {between}{hint}"
    if len(lines) == taxa:
        number, name, cells = next((number, *split(line)) for number, line in lines if len(split(line)[1]) != columns)
        return f"{said}, but the sequence of {name!r} in line {number} has {len(cells)}{hint}"
    return f"{said}, but the {len(lines)} lines that follow are no sequences of this number and length{hint}"
