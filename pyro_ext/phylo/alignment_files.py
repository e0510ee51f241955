"""Reading alignments from files: FASTA, PHYLIP, NEXUS, Clustal and Stockholm."""

from __future__ import annotations

import re
from pathlib import Path

from pyro_ext.phylo._lexer import Problem
from pyro_ext.phylo._nexus_matrix import nexus_sequences
from pyro_ext.phylo._phylip import phylip_records
from pyro_ext.phylo._sources import pieces
from pyro_ext.phylo.alignment import Alignment
from pyro_ext.utils.checks import one_of

__all__ = ["read_alignment"]

_FORMATS = ("fasta", "phylip", "nexus", "clustal", "stockholm")
_NAMES = {"word": "", "joined": "fasta", "ten": "phylip"}
_PIECE_BYTES = 2**21
_MOST_BYTES = 2**33  # of text; an alignment has to fit into memory several times
_BEGINNINGS = {
    "fasta": re.compile(rb"\s*+>"),
    "nexus": re.compile(rb"\s*+#nexus", re.IGNORECASE),
    "stockholm": re.compile(rb"\s*+# *STOCKHOLM"),
    "clustal": re.compile(rb"\s*+(?:CLUSTAL|MUSCLE|PROBCONS|MSAPROBS|Kalign)"),
    "phylip": re.compile(rb"\s*+[0-9]++[ \t]++[0-9]++(?=\s|\Z)"),
}


def read_alignment(
    path: str | Path, *, format: str | None = None, names: str = "word", compress: bool = True
) -> Alignment:
    r"""Read an alignment of DNA sequences, plain or compressed with gzip, bzip2 or xz.

    Of NEXUS, the blocks of taxa and characters are read as they declare themselves (DATATYPE, GAP, MISSING, MATCHCHAR,
    EQUATE, INTERLEAVE, NOLABELS, ELIMINATE, LINK); sets of states in braces become ambiguity codes, several blocks of
    DNA over the same taxa are joined, of ``datatype=mixed`` the DNA is read, and other blocks are left out. In PHYLIP,
    sequences stand on one line each, are wrapped, or stand in blocks.

    Args:
        path: the file to read.
        format: the format of the file, ``"fasta"``, ``"phylip"``, ``"nexus"``, ``"clustal"`` or ``"stockholm"``; by
            default recognised from the content.
        names: the form of names. With ``"word"`` a name ends at a blank; what follows it in FASTA is a description.
            With ``"joined"`` the name is the whole line in FASTA, with an underscore for each blank. With ``"ten"`` it
            is the first ten characters of a line in PHYLIP.
        compress: whether equal columns are merged into one pattern.

    Raises:
        ValueError: if the file is empty or in none of these formats, a taxon comes twice, the lengths differ, or a
            character is unknown; the message names the file, and taxon and column where the error concerns one.
        OSError: if the file cannot be opened.

    References:
        Maddison, Swofford, Maddison (1997), NEXUS: an extensible file format for systematic information.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".fasta") as file:
        ...     _ = file.write(">mars\nACGT-\n>saturn\nACGTN\n")
        ...     file.flush()
        ...     read_alignment(file.name)
        Alignment(2 taxa, 5 sites, 5 patterns: mars, saturn)
    """
    if format is not None:
        one_of("format", format, _FORMATS)
    one_of("names", names, _NAMES)
    content, kind = _content(Path(path), format)
    if _NAMES[names] not in ("", kind):
        raise ValueError(f"{path}: names={names!r} is for {_NAMES[names]}, but this file is {kind}: leave it out")
    try:
        sequences = nexus_sequences(content) if kind == "nexus" else _distinct(_records(content, kind, names), names)
        if not sequences:
            raise ValueError(f"there are no sequences in this file, read as {kind}")
        _check_encoding(sequences)
        return Alignment.from_sequences(sequences, compress=compress)
    except Problem as error:
        line = content.count(b"\n", 0, error.at) + 1
        raise ValueError(f"{path}, line {line}: {error.message}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _content(path: Path, kind: str | None) -> tuple[bytes, str]:
    """Return the text of a file, with line feeds at the ends of lines, and its format."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces(path, _PIECE_BYTES):
        parts.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise ValueError(f"{path}: the file holds more than {_MOST_BYTES} bytes of text; read a part of it")
        if kind is None and not piece.isspace():
            kind = _guess(b"".join(parts), str(path))
    content = b"".join(parts)
    if not content.strip():
        raise ValueError(f"{path}: the file is empty")
    assert kind is not None
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), kind


def _guess(begin: bytes, path: str) -> str:
    kind = next((kind for kind, beginning in _BEGINNINGS.items() if beginning.match(begin)), None)
    if kind is None:
        raise ValueError(
            f"{path}: neither FASTA ('>name'), nor NEXUS ('#NEXUS'), nor PHYLIP (two numbers first), nor Clustal, nor "
            "Stockholm"
        )
    return kind


def _records(content: bytes, kind: str, names: str) -> list[tuple[str, str]]:
    text = content.decode("utf-8", "surrogateescape").lstrip()
    if kind == "fasta":
        return _fasta_records(text, names == "joined")
    if kind != "phylip":
        return _block_records(text, kind)
    try:
        return phylip_records(content.decode("utf-8", "surrogateescape"), names == "ten")
    except ValueError as error:
        raise ValueError(f"no alignment in phylip: {error}") from error


def _fasta_records(text: str, join: bool) -> list[tuple[str, str]]:
    if not text.startswith(">"):
        raise ValueError(f"no alignment in fasta: expected '>name' at the start, got {text[:20]!r}")
    records = []
    for record in re.split(r"(?:\A|\n)[ \t]*>", text)[1:]:
        head, _, cells = record.partition("\n")
        words = re.findall(r"\S+", head, re.ASCII)
        name = "_".join(words) if join else words[0] if words else ""
        records.append((name, re.sub(r"\s+", "", cells, flags=re.ASCII)))
    return records


def _block_records(text: str, kind: str) -> list[tuple[str, str]]:
    """Return names and sequences from Clustal or Stockholm, whose blocks have a name and a part of a sequence a line.

    Raises:
        ValueError: if a line is none of these, a file in Stockholm does not end, or there are several alignments.
    """
    rows: dict[str, list[str]] = {}
    ends = 0
    for number, line in enumerate(text.split("\n")[1:], 2):
        words = re.findall(r"\S+", line, re.ASCII)
        if not words or (line[0] == "#" if kind == "stockholm" else line[0] in " \t"):
            continue  # annotations; in Clustal, marks of conserved columns begin with blanks
        if words == ["//"] and kind == "stockholm":
            ends += 1
        elif ends:
            raise ValueError("there are several alignments in this file: keep one of them")
        elif len(words) == 2 or (len(words) == 3 and re.fullmatch("[0-9]+", words[2]) and kind == "clustal"):
            rows.setdefault(words[0], []).append(words[1])
        else:
            raise ValueError(f"no alignment in {kind}: line {number} is no name and sequence with a blank between")
    if kind == "stockholm" and not ends:
        raise ValueError("no alignment in stockholm: the file is truncated, as there is no line '//' at its end")
    records = [(name, "".join(parts)) for name, parts in rows.items()]
    return [(name, cells.replace(".", "-")) for name, cells in records] if kind == "stockholm" else records


def _distinct(records: list[tuple[str, str]], names: str) -> dict[str, str]:
    """Return the sequences by name, which must be distinct."""
    sequences: dict[str, str] = {}
    for name, sequence in records:
        if not name:
            raise ValueError(f"sequence {len(sequences) + 1} has no name")
        if name in sequences:
            hint = "" if names != "word" else "; names end at a blank: for whole lines of FASTA pass names='joined'"
            raise ValueError(f"taxon {name!r} comes twice{hint}")
        sequences[name] = sequence
    return sequences


def _check_encoding(sequences: dict[str, str]) -> None:
    """Refuse names and sequences that are no UTF-8."""
    for taxon, sequence in sequences.items():
        for text, what in ((taxon, "the name of taxon"), (sequence, "the sequence of taxon")):
            wrong = re.search("[\udc80-\udcff]", text)
            if wrong is not None:
                shown = taxon.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                place = f" in column {wrong.start() + 1}" if text is sequence else ""
                raise ValueError(f"{what} {shown!r} is no UTF-8{place}: convert the file to UTF-8")
