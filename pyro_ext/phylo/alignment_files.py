"""Alignments from files: relaxed PHYLIP, and FASTA and NEXUS, which Biopython reads."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path

from pyro_ext.phylo._phylip import phylip_records
from pyro_ext.phylo.alignment import Alignment

__all__ = ["read_alignment"]

_FORMATS = ("fasta", "phylip", "nexus")


def read_alignment(path: str | Path, *, format: str | None = None, compress: bool = True) -> Alignment:
    r"""Read an alignment of DNA sequences, plain or compressed with gzip.

    Args:
        path: the file.
        format: ``"fasta"``, ``"phylip"`` (relaxed: names end at a blank; interleaved or not) or ``"nexus"``; by
            default what the content looks like.
        compress: whether equal columns become one pattern.

    Raises:
        ValueError: naming the file, and taxon and column where there are such, if it is empty or in none of these
            formats, a taxon comes twice, the lengths differ, or a character is unknown.
        ImportError: if Biopython is not installed, for FASTA and NEXUS.
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
    kind = _guess(text, str(path)) if format is None else format
    if kind not in _FORMATS:
        raise ValueError(f"format must be 'fasta', 'phylip' or 'nexus', got {kind!r}")
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
            return phylip_records(text)
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
