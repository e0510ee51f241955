"""Reading alignments from files: relaxed PHYLIP, and FASTA and NEXUS, which Biopython reads."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path

from pyro_ext.phylo.alignment import Alignment
from pyro_ext.utils.checks import one_of

__all__ = ["read_alignment"]

_FORMATS = ("fasta", "phylip", "nexus")

_Lines = list[tuple[int, list[str]]]
"""Lines of a file: the number of each, and its words."""


def read_alignment(path: str | Path, *, format: str | None = None, compress: bool = True) -> Alignment:
    r"""Read an alignment of DNA sequences, plain or compressed with gzip.

    Args:
        path: the file to read.
        format: the format of the file, ``"fasta"``, ``"phylip"`` (relaxed: names end at a blank; interleaved or not) or
            ``"nexus"``; by default recognised from the content.
        compress: whether equal columns are merged into one pattern.

    Raises:
        ValueError: if the file is empty or in none of these formats, a taxon comes twice, the lengths differ, or a
            character is unknown; the message names the file, and taxon and column where the error concerns one.
        ImportError: for FASTA and NEXUS, if Biopython is not installed.
        OSError: if the file cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".fasta") as file:
        ...     _ = file.write(">mars\nACGT-\n>saturn\nACGTN\n")
        ...     file.flush()
        ...     read_alignment(file.name)
        Alignment(2 taxa, 5 sites, 5 patterns: mars, saturn)
    """
    text = _text(Path(path))
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    kind = _guess(text, str(path)) if format is None else one_of("format", format, _FORMATS)
    sequences: dict[str, str] = {}
    for name, sequence in _records(text, kind, str(path)):
        if not name:
            raise ValueError(f"{path}: sequence {len(sequences) + 1} has no name")
        if name in sequences:
            raise ValueError(f"{path}: taxon {name!r} comes twice")
        sequences[name] = sequence
    if not sequences:
        raise ValueError(f"{path}: there are no sequences in this file, read as {kind}")
    try:
        return Alignment.from_sequences(sequences, compress=compress)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return re.sub("\r\n?", "\n", content.decode("utf-8-sig"))
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); get it again") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from error


def _guess(text: str, path: str) -> str:
    start = text.lstrip()
    if start.startswith(">"):
        return "fasta"
    if start[:6].lower() == "#nexus":
        return "nexus"
    numbers = start.split("\n", 1)[0].split()
    if len(numbers) >= 2 and all(number.isdigit() for number in numbers[:2]):
        return "phylip"
    raise ValueError(f"{path}: neither FASTA ('>name'), nor NEXUS ('#NEXUS'), nor PHYLIP (two numbers first)")


def _records(text: str, kind: str, path: str) -> list[tuple[str, str]]:
    if kind == "phylip":
        try:
            return _phylip_records(text)
        except ValueError as error:
            raise ValueError(f"{path}: no alignment in phylip: {error}") from error
    try:
        from Bio import SeqIO
    except ImportError as error:
        raise ImportError("reading alignments needs Biopython: pip install 'pyro-ext[phylo]'") from error
    try:
        return [(record.id, str(record.seq)) for record in SeqIO.parse(io.StringIO(text.lstrip()), kind)]
    except Exception as error:  # Biopython's parsers raise many kinds
        raise ValueError(f"{path}: no alignment in {kind}: {error}") from error


def _phylip_records(text: str) -> list[tuple[str, str]]:
    """Return names and sequences from relaxed PHYLIP: on one line each, wrapped, or interleaved in blocks.

    Args:
        text: the numbers of taxa and of columns, then the sequences; names end at a blank.

    Raises:
        ValueError: if the sequences are not as many, or as long, as the numbers say.
    """
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    (_, head), lines = rows[0], rows[1:]
    if len(head) < 2 or not all(number.isdigit() for number in head[:2]):
        raise ValueError(f"the first line must hold the numbers of taxa and of columns, got {' '.join(head)!r}")
    taxa, columns = int(head[0]), int(head[1])
    for read in (_interleaved, _one_after_the_other):
        records = read(lines, taxa, columns)
        if len(records) == taxa and all(len(sequence) == columns for _, sequence in records):
            return records
    raise ValueError(_what_is_wrong(lines, taxa, columns))


def _interleaved(lines: _Lines, taxa: int, columns: int) -> list[tuple[str, str]]:
    """Read blocks of one line for each taxon, with names in the first block; one block is the plain case."""
    first, more = lines[:taxa], lines[taxa:]
    if not taxa or len(more) % taxa:
        return []
    rows = [list(words) for _, words in first]
    for place, (_, words) in enumerate(more):
        rows[place % taxa] += words
    return [(name, "".join(parts)) for name, *parts in rows]


def _one_after_the_other(lines: _Lines, taxa: int, columns: int) -> list[tuple[str, str]]:
    """Read each sequence to its end, over as many lines as it takes, before the next name."""
    records: list[tuple[str, str]] = []
    for _, words in lines:
        if not records or len(records[-1][1]) >= columns:
            records.append((words[0], "".join(words[1:])))
        else:
            records[-1] = (records[-1][0], records[-1][1] + "".join(words))
    return records


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
