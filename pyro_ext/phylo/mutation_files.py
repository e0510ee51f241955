"""Mutation matrices from and to tables with commas or tabs."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from pyro_ext.ops.mutations import MISSING
from pyro_ext.phylo._sources import pieces
from pyro_ext.phylo.mutation_matrix import MutationMatrix
from pyro_ext.utils.files import write_text

__all__ = ["read_mutations", "write_mutations"]

_PIECE_BYTES = 2**20
_MOST_BYTES = 2**30
_CODES = {
    **dict.fromkeys(("0", "0.0"), 0),
    **dict.fromkeys(("1", "1.0"), 1),
    **dict.fromkeys(("3", "3.0", "NA", "N/A", "na", "NaN", "nan", "?", ""), MISSING),
}
_CORNERS = ("", "cellidxmutid")  # what programs of this field write above the names of cells


def read_mutations(path: str | Path) -> MutationMatrix:
    r"""Read a mutation matrix, a row for each cell and a column for each mutation.

    Fields are separated by tabs if there are any, else by commas. They are 0, 1, or for missing entries 3, ``NA``,
    ``NaN``, ``?`` or nothing. The first line may name the mutations, the first column the cells: each is taken as names
    if most of it is no entry, or it counts from 0 or 1. Files may be compressed with gzip, bzip2 or xz.

    Args:
        path: the file to read.

    Raises:
        ValueError: if the file is empty or no text, lines differ in length, a name comes twice, or an entry is
            another one, such as 2; the message names the file, and line and column where the error concerns one.
        OSError: if the file cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        ...     _ = file.write("cell,TP53,KRAS\nA,1,0\nB,NA,1\n")
        ...     file.flush()
        ...     matrix = read_mutations(file.name)
        >>> matrix.cells, matrix.mutations, matrix.values.tolist()
        (('A', 'B'), ('TP53', 'KRAS'), [[1, 0], [3, 1]])
    """
    try:
        return _matrix(_lines(Path(path)))
    except ValueError as error:
        known = str(error).startswith(str(path))
        raise error if known else ValueError(f"{path}: {error}") from error


def write_mutations(matrix: MutationMatrix, path: str | Path) -> None:
    """Write a mutation matrix with its names, separated by tabs if the name of the file ends so, else by commas.

    Args:
        matrix: what to write; missing entries are written as 3.
        path: the file; ``.tsv``, ``.txt`` and ``.SC`` are separated by tabs.

    Raises:
        ValueError: if something that is no file is in the way.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_mutations(MutationMatrix.of([[1, 3]]), f"{folder}/one.tsv")
        ...     read_mutations(f"{folder}/one.tsv").mutations
        ('m1', 'm2')
    """
    tab = Path(path).suffix.lower() in (".tsv", ".txt", ".sc")
    rows = [["cellIDxmutID", *matrix.mutations]]
    rows += [[cell, *map(str, row)] for cell, row in zip(matrix.cells, matrix.values.tolist(), strict=True)]
    write_text(path, _Text(rows, "\t" if tab else ",").text)


class _Text:
    """Rows as text, with quotes where a field needs them."""

    def __init__(self, rows: list[list[str]], delimiter: str) -> None:
        self.text = ""
        csv.writer(self, delimiter=delimiter, lineterminator="\n").writerows(rows)

    def write(self, piece: str) -> None:
        self.text += piece


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the fields of each line that is not empty, with its number."""
    parts, size = [], 0
    for piece in pieces(path, _PIECE_BYTES):
        parts.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise ValueError(f"the file holds more than {_MOST_BYTES} bytes of text; read a part of it")
    text = b"".join(parts).decode("utf-8", "replace")
    reader = csv.reader(text.splitlines(), delimiter="\t" if "\t" in text else ",", skipinitialspace=True)
    try:
        lines = [(reader.line_num, [field.strip() for field in fields]) for fields in reader]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    return [(number, fields) for number, fields in lines if any(fields)]


def _matrix(lines: list[tuple[int, list[str]]]) -> MutationMatrix:
    if not lines:
        raise ValueError("the file is empty; a mutation matrix has a line for each cell")
    header = lines[0][1]
    body = lines[1:] if _are_names(header[1:] or header) or _are_names(header) else lines
    has_header = body is not lines
    if not body:
        raise ValueError("the file has no line but that of names; a mutation matrix has a line for each cell")
    width = len(body[0][1])
    for number, fields in body:
        if len(fields) != width:
            raise ValueError(f"line {number} has {len(fields)} fields, line {body[0][0]} has {width}; all need as many")
    first = [fields[0] for _, fields in body]
    has_cells = _are_names(first) or (
        has_header and (len(header) == width - 1 or header[0].lower() in _CORNERS) and len(set(first)) == len(first)
    )
    if has_header and len(header) == width - 1 and has_cells:
        header = ["", *header]
    if has_header and len(header) != width:
        raise ValueError(f"line {lines[0][0]} names {len(header)} columns, line {body[0][0]} has {width}")
    skipped = int(has_cells)
    if width == skipped:
        raise ValueError("there is no column but that of names; a mutation matrix has a column for each mutation")
    values = [
        [_entry(field, number, place) for place, field in enumerate(fields[skipped:], skipped + 1)]
        for number, fields in body
    ]
    names = header[skipped:] if has_header else None
    return MutationMatrix.of(torch.tensor(values, dtype=torch.int8), first if has_cells else None, names)


def _are_names(fields: list[str]) -> bool:
    """Whether fields are names: a stray 2 among zeros and ones makes no name, counting from 0 or 1 does."""
    strange = [field for field in fields if field not in _CODES]
    if len(fields) > 2 and any(fields == [str(first + place) for place in range(len(fields))] for first in (0, 1)):
        return True
    return bool(strange) and (len(strange) == len(fields) or 2 * len(strange) > len(fields) == len(set(fields)))


def _entry(field: str, line: int, column: int) -> int:
    if field not in _CODES:
        hint = "; take a homozygous mutation as 1" if field == "2" else ""
        raise ValueError(
            f"line {line}, column {column}: entries must be 0, 1, or 3 or NA (missing), got {field!r}{hint}"
        )
    return _CODES[field]
