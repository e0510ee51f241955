"""Aligned DNA sequences in NEXUS: the blocks TAXA, CHARACTERS and DATA; other blocks are passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from pyro_ext.phylo._lexer import QUOTED, Chunk, Problem
from pyro_ext.phylo._nexus_words import TaxaBlocks, count_in, folded, linked_taxa, options
from pyro_ext.phylo.alignment import BITS

__all__ = ["nexus_sequences"]

_DNA = ("dna", "rna", "nucleotide")
_SINGLE = ("missing", "gap", "matchchar")
_REFUSED = ("transpose", "tokens")
_KEYWORD = re.compile(rb"(?:\s|#nexus)*+([A-Za-z]+)(?:\s++([A-Za-z_]+))?", re.IGNORECASE)
_BLANKS = " \t\r\n\f\v"
_LABEL = re.compile(r"\s*+(" + QUOTED.decode() + r"|\S++)", re.ASCII)
_CELLS = re.compile(r"\s*+(\{[^{}]*+\}|\([^()]*+\)|[^\s(){}]++|\S)", re.ASCII)
_RANGE = re.compile(r"(\d{1,9}|\.)(?:\s*-\s*(\d{1,9}|\.)(?:\s*[\\/]\s*(\d{1,9}))?)?(?:\s*,\s*|\s+|\Z)", re.ASCII)
_EQUATE = re.compile(r"[\s,]*+(\S)\s*+=\s*+(\{[^{}]*+\}|\([^()]*+\)|\S)", re.ASCII)
_MIXED = re.compile(r"mixed\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_CODE_OF_BITS = {bits: code for code, bits in reversed(BITS.items())}
_SET = 0xD800  # a set of states is kept as this character plus its bits; no text in UTF-8 has one of these


@dataclass
class _Matrix:
    """A block of characters.

    Attributes:
        title: the title of the block, None without one.
        at: the position of the block in the file.
        link: the title of the TAXA block that the block is linked to, None if to none.
        num_taxa: NTAX of the block, None without one.
        size: NCHAR, None without one.
        format: the words of FORMAT and their values.
        eliminated: the numbers of the characters that ELIMINATE leaves out, as text, with its position.
        rows: the text of each sequence, by taxon; None if the block has no MATRIX, or it is not DNA.
    """

    title: str | None
    at: int
    link: str | None = None
    num_taxa: int | None = None
    size: int | None = None
    format: list[tuple[str, str | None]] = field(default_factory=list)
    eliminated: list[tuple[str, int]] = field(default_factory=list)
    rows: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """What messages call the block."""
        return "the block of characters" + ("" if self.title is None else f" {self.title!r}")

    def value(self, key: str) -> str | None:
        """Return the value of a word of FORMAT, None if it has none."""
        return next((value for name, value in self.format if name == key), None)

    def has(self, key: str) -> bool:
        """Return whether FORMAT has a word, and does not say no to it."""
        return any(name == key and (value or "").lower() != "no" for name, value in self.format)


def nexus_sequences(content: bytes) -> dict[str, str]:
    """Return the sequences of a NEXUS file by taxon, in upper-case letters of the IUPAC code.

    DATATYPE, GAP, MISSING, MATCHCHAR, EQUATE, INTERLEAVE, NOLABELS, ELIMINATE, LINK and the counts NTAX and NCHAR mean
    what Maddison, Swofford and Maddison (1997, Systematic Biology 46:590) say. States in braces or parentheses become
    the ambiguity code of their union. Of ``datatype=mixed`` as MrBayes writes it, the DNA part is read; several blocks
    of DNA over the same taxa are joined in their order, blocks of other data are left out.

    Args:
        content: the bytes of the file; those within comments may be in any encoding.

    Raises:
        Problem: if the file has no DNA, or does not agree with what it declares; with the position in the file.
    """
    chunk = Chunk(content, is_nexus=True)
    visible = chunk.array.copy()
    if chunk.comment is not None:
        visible[chunk.comment] = ord(" ")
    text = visible.tobytes()
    taxa, block = TaxaBlocks(), ""
    matrices: list[_Matrix] = []
    for start, end in zip(chunk.starts().tolist(), chunk.ends.tolist(), strict=True):
        match = _KEYWORD.match(text, start, end)
        if match is None:
            continue
        word = match.group(1).lower().decode()
        if word == "begin":
            block = (match.group(2) or b"").lower().decode()
            if block in ("taxa", "data", "characters"):
                taxa.begin()
            if block in ("data", "characters"):
                matrices.append(_Matrix(None, match.start(1)))
        elif word in ("end", "endblock"):
            block = ""
        elif block == "taxa":
            taxa.read(word, text[match.end(1) : end], match.end(1))
        elif block in ("data", "characters"):
            _read_statement(matrices[-1], word, text[match.end(1) : end], match.end(1), taxa)
    rest = int(chunk.ends[-1]) + 1 if len(chunk.ends) else 0
    if block in ("data", "characters") and text[rest:].strip() and matrices[-1].rows is None:
        raise Problem("the file is truncated: the last statement has no ';' at its end", rest)
    return _joined(matrices)


def _read_statement(matrix: _Matrix, word: str, text: bytes, at: int, taxa: TaxaBlocks) -> None:
    if word == "title":
        matrix.title = next((match[1].strip("'\"") for match in _LABEL.finditer(_decoded(text))), None)
    elif word == "link":
        matrix.link = linked_taxa(text, at) or matrix.link
    elif word == "format":
        matrix.format += options(text, at)
    elif word == "eliminate":
        matrix.eliminated.append((_decoded(text), at))
    elif word == "matrix":
        _read_matrix(matrix, _decoded(text), at, taxa)
    else:
        taxa.read(word, text, at)
    if word == "dimensions":
        matrix.num_taxa, matrix.size = (count_in(text, key, at) for key in ("ntax", "nchar"))


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _joined(matrices: list[_Matrix]) -> dict[str, str]:
    dna = [matrix for matrix in matrices if matrix.rows is not None]
    if not dna:
        if not matrices:
            raise Problem("there are no sequences: expected a block 'begin data;' or 'begin characters;'", 0)
        kinds = ", ".join(matrix.value("datatype") or "no MATRIX" for matrix in matrices)
        raise Problem(f"there is no DNA in this file: its blocks of characters hold {kinds}", matrices[0].at)
    first = dna[0].rows or {}
    joined = {taxon: [sequence] for taxon, sequence in first.items()}
    for matrix in dna[1:]:
        rows = matrix.rows or {}
        if rows.keys() != first.keys():
            raise Problem(
                f"{matrix.name} has other taxa than {dna[0].name}, so they cannot be joined: keep one of them",
                matrix.at,
            )
        for taxon, sequence in rows.items():
            joined[taxon].append(sequence)
    return {taxon: "".join(parts) for taxon, parts in joined.items()}


def _read_matrix(matrix: _Matrix, text: str, at: int, taxa: TaxaBlocks) -> None:
    """Read the rows of a matrix, and turn what is DNA into letters of the IUPAC code."""
    columns = _dna_columns(matrix, len(text), at)
    if columns is None:
        return
    refused = next((key for key in _REFUSED if matrix.has(key)), None)
    if refused is not None or (matrix.value("labels") or "").lower() == "right":
        raise Problem(f"FORMAT {(refused or 'labels=right').upper()} is not read: write one row for each taxon", at)
    own, own_size = taxa.own()
    names = own or taxa.labels(matrix.link, at)
    expected = own_size if own_size is not None else len(names or []) or None
    bits = _symbols(matrix, at)
    rows = _rows(matrix, text, at, names, bits)
    if expected is not None and len(rows) != expected:
        raise Problem(f"{matrix.name} has {len(rows)} sequences, but NTAX is {expected}", at)
    matrix.rows = _letters(matrix, rows, columns, bits, at)


def _dna_columns(matrix: _Matrix, length: int, at: int) -> np.ndarray | None:
    """Return the places of the characters that are DNA and not eliminated, None if there is no DNA.

    Args:
        matrix: the block of characters.
        length: the length of the text of the matrix.
        at: the position of the matrix in the file.

    Raises:
        Problem: if the characters are not as many as declared, or those that are meant do not exist.
    """
    kind = matrix.value("datatype") or "dna"  # the user wants DNA; letters that are none will be refused
    mixed = _MIXED.fullmatch(kind)
    if mixed is None and kind.lower() not in _DNA:
        return None
    if matrix.size is None:
        raise Problem(f"{matrix.name} has no NCHAR before its MATRIX: write 'dimensions nchar=...;'", at)
    if matrix.size > length:
        raise Problem(f"NCHAR is {matrix.size}, but {matrix.name} has less text than that", at)
    kept = np.full(matrix.size, mixed is None)
    if mixed is not None:
        for name, _, places in (part.partition(":") for part in re.split(r",(?=\s*[A-Za-z])", mixed.group(1))):
            if name.strip().lower() in _DNA:
                kept |= _character_set(places, matrix.size, at)
        if not kept.any():
            return None
    for text, where in matrix.eliminated:
        kept &= ~_character_set(text, matrix.size, where)
    if not kept.any():
        raise Problem(f"{matrix.name} has no characters left: NCHAR is 0, or ELIMINATE leaves all of them out", at)
    return np.flatnonzero(kept)


def _character_set(text: str, size: int, at: int) -> np.ndarray:
    r"""Return which characters belong to a set such as ``1-3 7 10-.\3``, ``(size,)``."""
    result = np.zeros(size, bool)
    text = text.strip(_BLANKS)
    if text.lower() == "all":
        return ~result
    place = 0
    while place < len(text):
        match = _RANGE.match(text, place)
        if match is None:
            raise Problem(f"{text[place : place + 20]!r} is no set of characters such as 1-3 or 4-.\\3", at)
        first, last, step = match.groups()
        begin, end = (size if number == "." else int(number) for number in (first, last or first))
        if not 1 <= begin <= end <= size or (step is not None and int(step) < 1):
            raise Problem(f"{match.group().strip()!r} are not among the characters 1 to {size}", at)
        result[begin - 1 : end : int(step or 1)] = True
        place = match.end()
    return result


def _symbols(matrix: _Matrix, at: int) -> dict[str, int]:
    """Return the states of each symbol, one bit for each of the four; MATCHCHAR is not among them."""
    bits = BITS | {code.lower(): own for code, own in BITS.items()}
    for key in _SINGLE:
        symbol = matrix.value(key)
        if symbol is None:
            continue
        if len(symbol) != 1:
            raise Problem(f"FORMAT {key.upper()}={symbol} is not one character", at)
        if key == "matchchar":
            bits.pop(symbol, None)
        else:
            bits |= dict.fromkeys((symbol, symbol.lower(), symbol.upper()), 15)
    for text in (value or "" for key, value in matrix.format if key == "equate"):
        place, text = 0, text.rstrip(" \t\r\n,")
        while place < len(text):
            match = _EQUATE.match(text, place)
            states = 0 if match is None else _union(match.group(2), bits)
            if match is None or not states:
                raise Problem(f'EQUATE={text!r} is not understood: expected pairs such as "x=A y={{CT}}"', at)
            bits[match.group(1)] = states
            place = match.end()
    return bits


def _union(cell: str, bits: dict[str, int]) -> int:
    """Return the bits of the states in ``{AG}``, 0 if there is one that is no nucleotide."""
    result = 0
    for symbol in cell.strip("{}()"):
        if not symbol.isspace() and symbol != ",":
            if symbol not in bits:
                return 0
            result |= bits[symbol]
    return result


def _rows(matrix: _Matrix, text: str, at: int, names: list[str] | None, bits: dict[str, int]) -> dict[str, str]:
    """Return the sequences by taxon, one character for each cell of the matrix."""
    no_labels = matrix.has("nolabels") or (matrix.value("labels") or "").lower() == "no"
    if no_labels and not names:
        raise Problem(
            "FORMAT NOLABELS needs the names of the taxa: write TAXLABELS"
            + ("" if names is not None else ", and 'link taxa = TITLE;' where there are several blocks of taxa"),
            at,
        )
    reader = _Rows(matrix, text, at, names or [], no_labels, bits)
    return reader.interleaved() if matrix.has("interleave") else reader.in_turn()


class _Rows:
    """The rows of one matrix."""

    def __init__(
        self, matrix: _Matrix, text: str, at: int, names: list[str], no_labels: bool, bits: dict[str, int]
    ) -> None:
        self._matrix, self._text, self._at, self._names = matrix, text, at, names
        self._no_labels, self._bits = no_labels, bits
        self._folded = {folded(name): name for name in names}
        self._known = set(names)

    def interleaved(self) -> dict[str, str]:
        """Read blocks of one line for each taxon."""
        parts: dict[str, list[str]] = {}
        lines = (line for line in re.split(r"\r\n?|\n", self._text) if line.strip(_BLANKS))
        for number, line in enumerate(lines):
            place = 0
            if self._no_labels:
                name = self._names[number % len(self._names)]
            else:
                name, place = self._label(line, 0)
            parts.setdefault(name, []).extend(cells for cells, _ in self._cells(line, place, name))
        rows = {name: "".join(cells) for name, cells in parts.items()}
        for name, row in rows.items():
            if len(row) != self._matrix.size:
                raise self._wrong_length(name, len(row))
        return rows

    def in_turn(self) -> dict[str, str]:
        """Read each sequence to its end, over as many lines as it takes, before the next name."""
        rows: dict[str, str] = {}
        place, size = 0, self._matrix.size or 0
        stop = len(self._text.rstrip(_BLANKS))
        for number in count():
            if place >= stop:
                return rows
            if self._no_labels:
                if number >= len(self._names):
                    raise Problem(f"{self._matrix.name} has more sequences than taxa ({len(self._names)})", self._at)
                name = self._names[number]
            else:
                name, place = self._label(self._text, place)
            if name in rows:
                raise self._twice(name)
            parts, length = [], 0
            for cells, end in self._cells(self._text, place, name):
                parts.append(cells)
                length += len(cells)
                place = end
                if length >= size:
                    break
            if length != size:
                raise self._wrong_length(name, length)
            rows[name] = "".join(parts)
        return rows

    def _label(self, text: str, place: int) -> tuple[str, int]:
        match = _LABEL.match(text, place)
        assert match is not None  # there is more than blanks
        raw = match.group(1)
        name = raw[1:-1].replace(raw[0] * 2, raw[0]) if len(raw) > 1 and raw[0] in "'\"" and raw[0] == raw[-1] else raw
        if self._names and name not in self._known:
            if folded(name) not in self._folded:
                hint = "" if self._matrix.has("interleave") else _INTERLEAVE
                raise Problem(f"taxon {name!r} in {self._matrix.name} is not among the TAXLABELS{hint}", self._at)
            name = self._folded[folded(name)]
        return name, match.end()

    def _cells(self, text: str, place: int, name: str) -> Iterator[tuple[str, int]]:
        """Yield some cells at a time, one character for each, and the place behind them."""
        for match in _CELLS.finditer(text, place):
            cells = match.group(1)
            if cells[0] in "{(" and len(cells) > 1:
                yield chr(_SET + _union(cells, self._bits)), match.end()
            elif cells in ("{", "}", "(", ")"):
                raise Problem(f"taxon {name!r} has {cells!r} without its counterpart", self._at)
            else:
                yield cells, match.end()

    def _twice(self, name: str) -> Problem:
        return Problem(f"taxon {name!r} comes twice in {self._matrix.name}{_INTERLEAVE}", self._at)

    def _wrong_length(self, name: str, length: int) -> Problem:
        hint = "" if self._matrix.has("interleave") else _INTERLEAVE
        return Problem(
            f"the sequence of {name!r} has {length} characters, but NCHAR is {self._matrix.size}{hint}", self._at
        )


_INTERLEAVE = "; if the sequences stand in blocks, FORMAT must say INTERLEAVE"


def _letters(
    matrix: _Matrix, rows: dict[str, str], columns: np.ndarray, bits: dict[str, int], at: int
) -> dict[str, str]:
    """Turn the cells of the kept columns into letters of the IUPAC code."""
    letters = {ord(symbol): _CODE_OF_BITS[own] for symbol, own in bits.items()}
    letters |= {_SET + own: code for own, code in _CODE_OF_BITS.items()}
    match_character = matrix.value("matchchar")
    all_kept = len(columns) == matrix.size
    result: dict[str, str] = {}
    first = ""
    for taxon, row in rows.items():
        own = row if all_kept else "".join(row[k] for k in columns.tolist())
        if match_character is not None and match_character in own and first:
            own = "".join(a if b == match_character else b for a, b in zip(first, own, strict=True))
        first = first or own
        wrong = next((symbol for symbol in dict.fromkeys(own) if ord(symbol) not in letters), None)
        if wrong is not None:
            column = int(columns[own.index(wrong)]) + 1
            what = "a set of states" if _SET <= ord(wrong) < _SET + 16 else repr(wrong)
            raise Problem(
                f"taxon {taxon!r} has {what} in column {column}, which is no nucleotide; expected one of "
                f"{''.join(BITS)}, or what GAP, MISSING, MATCHCHAR or EQUATE declare",
                at,
            )
        result[taxon] = own.translate(letters)
    return result
