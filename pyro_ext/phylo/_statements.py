"""The statements of a file that are trees, and the text before a tree: its name, weight and rooting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from pyro_ext.phylo._lexer import COMMENT, Chunk, Problem
from pyro_ext.phylo._nexus_words import TaxaBlocks, linked_taxa, translation

__all__ = ["Batch", "Header", "NewickFile", "NexusFile", "SamplerLog", "headers", "tree_file"]

_COMMENT = re.compile(COMMENT)
_KEYWORD = re.compile(
    rb"(?:\s|" + COMMENT + rb"|#NEXUS)*([A-Za-z_]+)(?:\s|" + COMMENT + rb")*([A-Za-z_]*)", re.IGNORECASE
)
_OPTION = re.compile(rb"\[&\s*(?:([RU])|W\s+([^\]]*?))\s*\]", re.IGNORECASE)
_TREE = re.compile(rb"=\s*\(")
_NUMBER_AS_LABEL = re.compile(rb"[(,]\s*+([0-9]++)\s*+(?=[,):])")
_LOG_HEADER = re.compile(
    rb"(?:\s*+#[^\n]*+\n)*+\s*+((?:iteration|generation|gen|state|sample)\b[^\n(;]*+)\n", re.IGNORECASE
)
_NEXUS = re.compile(rb"\s*+#nexus", re.IGNORECASE)
_WITH_TAXA = ("taxa", "data", "characters")
_NAME = re.compile(rb"\s*u?tree\s*\*?\s*('(?:[^']|'')*'|[^\s=\[]*)", re.IGNORECASE)


class Batch(NamedTuple):
    """Trees whose labels have the same meaning.

    Attributes:
        statements: the numbers of the trees' statements in the chunk.
        aliases: a mapping from labels to names.
        columns: the number of columns of a sampler's log, the last of which is the tree; None if this is no log.
    """

    statements: np.ndarray
    aliases: Mapping[str, str]
    columns: int | None = None


class Header(NamedTuple):
    """The text before a tree.

    Attributes:
        rooted: True for ``[&R]``, False for ``[&U]``, ``None`` without either.
        weight: the number in ``[&W ...]``, or before the tree; ``None`` without one.
        is_bare: whether the weight is a mere number before the tree.
    """

    rooted: bool | None
    weight: float | None
    is_bare: bool = False


_BARE = Header(None, None)


def tree_file(chunk: Chunk) -> tuple[NewickFile | NexusFile | SamplerLog, Chunk]:
    """Return the kind of a file from its first chunk, and the chunk, with blanks for the remarks before a log."""
    if is_nexus(chunk.text):
        return NexusFile(), chunk
    header = _LOG_HEADER.match(chunk.text)
    if header is None:
        return NewickFile(), chunk
    remarks = re.sub(rb"[^\n]", b" ", chunk.text[: header.start(1)])
    return SamplerLog(len(header.group(1).split())), Chunk(remarks + chunk.text[header.start(1) :])


def is_nexus(text: bytes) -> bool:
    """Return whether a text begins as NEXUS does."""
    return _NEXUS.match(text) is not None


class NewickFile:
    """A file in which all statements are trees."""

    is_open = False

    def batches(self, chunk: Chunk) -> Iterator[Batch]:
        """Yield the trees of a chunk."""
        if len(chunk.ends):
            yield Batch(np.arange(len(chunk.ends)), {})


class SamplerLog:
    """A log of a sampler such as RevBayes: a line with the names of its columns, then rows that end in a tree.

    Args:
        columns: the number of columns.
    """

    is_open = False

    def __init__(self, columns: int) -> None:
        self._columns = columns

    def batches(self, chunk: Chunk) -> Iterator[Batch]:
        """Yield the trees of a chunk."""
        if len(chunk.ends):
            yield Batch(np.arange(len(chunk.ends)), {}, self._columns)


class NexusFile:
    """A file of blocks, of which those named ``trees`` hold trees; it is read chunk by chunk."""

    def __init__(self) -> None:
        self._block = ""
        self._taxa = TaxaBlocks()
        self._link: str | None = None
        self._translation: dict[str, str] = {}
        self._aliases: dict[str, str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a block of trees has begun and has not ended."""
        return self._block == "trees"

    def batches(self, chunk: Chunk) -> Iterator[Batch]:
        """Yield the trees of a chunk, one batch for each block.

        Raises:
            Problem: if a statement of a block of trees is not understood.
        """
        trees: list[int] = []
        for k, (start, end) in enumerate(zip(chunk.starts().tolist(), chunk.ends.tolist(), strict=True)):
            match = _KEYWORD.match(chunk.text, start, end)
            word = match.group(1).lower() if match else b""
            if word in (b"tree", b"utree") and self._block == "trees":
                if self._aliases is None:
                    self._aliases = self._names_of_labels(chunk.text[start:end], start)
                trees.append(k)
                continue
            if match and word in (b"tree", b"utree") and not self._block:
                raise Problem("a tree stands outside of all blocks: write 'begin trees;' before it", match.start(1))
            if match is None or not self._is_known(word):
                if self._block == "trees" and _TREE.search(_without_comments(chunk.text[start:end])):
                    raise Problem(
                        f"{word.decode()!r} stands where 'tree NAME = (...);' is expected",
                        match.start(1) if match else start,
                    )
                continue
            if trees:
                yield Batch(np.array(trees), self._aliases or {})
                trees = []
            self._enter(word.decode(), match.group(2), chunk.text[match.end(1) : end], match.end(1))
        if trees:
            yield Batch(np.array(trees), self._aliases or {})

    def _is_known(self, word: bytes) -> bool:
        if word in (b"begin", b"end", b"endblock"):
            return True
        if self._block == "trees":
            return word in (b"translate", b"link", b"title")
        return self._block in _WITH_TAXA and word in (b"title", b"dimensions", b"taxlabels")

    def _enter(self, word: str, name: bytes, rest: bytes, at: int) -> None:
        if word == "begin":
            if self._block == "trees":
                raise Problem("a block begins within a block of trees, which has no 'end;': is the file truncated?", at)
            self._block = name.lower().decode()
            self._translation, self._link, self._aliases = {}, None, None
            if self._block in _WITH_TAXA:
                self._taxa.begin()
        elif word in ("end", "endblock"):
            self._block = ""
        elif self._block in _WITH_TAXA:
            self._taxa.read(word, _without_comments(rest), at)
        elif word == "link":
            self._link = linked_taxa(_without_comments(rest), at)
        elif word == "translate":
            self._translation = translation(_without_comments(rest), at)
        self._aliases = None

    def _names_of_labels(self, tree: bytes, at: int) -> dict[str, str]:
        """Return the names of the labels in a block of trees: what TRANSLATE says, and numbers of TAXLABELS.

        Args:
            tree: the first tree of the block.
            at: the position of the tree.

        Raises:
            Problem: if the tree has numbers, and it is not clear to which block of taxa they belong.
        """
        labels = self._taxa.labels(self._link, at)
        if labels is None:
            numbers = (number.decode() for number in _NUMBER_AS_LABEL.findall(_without_comments(tree)))
            unclear = next((number for number in numbers if number not in self._translation), None)
            if unclear is not None:
                raise Problem(
                    f"taxon {unclear} is a number, and there are several blocks of taxa: "
                    "write 'link taxa = TITLE;' into the block of trees",
                    at,
                )
            return self._translation
        known = set(labels)
        numbers_of = {str(k): label for k, label in enumerate(labels, 1) if str(k) not in known}
        return numbers_of | self._translation


def headers(chunk: Chunk, batch: Batch, first: np.ndarray, weights: bool = True) -> list[Header]:
    """Read the text before each tree.

    Args:
        chunk: the piece of text that holds the trees.
        batch: the trees.
        first: the position of the first parenthesis of each tree.
        weights: whether weights are wanted.

    Raises:
        Problem: if the text before a tree is not understood.
    """
    starts = chunk.starts()[batch.statements]
    result = []
    for tree, (start, stop) in enumerate(zip(starts.tolist(), first.tolist(), strict=True)):
        text = chunk.text[start:stop]
        blank = len(text) - len(text.lstrip())
        if batch.columns is not None:
            _check_row(text, batch.columns, start, tree)
            result.append(_BARE)
        else:
            result.append(_header(text, start + blank, tree, weights) if blank < len(text) else _BARE)
    return result


def _check_row(text: bytes, columns: int, at: int, tree: int) -> None:
    """Refuse a row of a log whose tree is not in the last column."""
    begin = text.rfind(b"\n") + 1
    before = text[begin:].split()
    is_header = _LOG_HEADER.fullmatch(text[:begin]) is not None
    if len(before) != columns - 1 or (text[:begin].strip() and not is_header):
        raise Problem(
            f"this log has {columns} columns, and a tree stands in another than the last: "
            "keep one column of trees, and put it last",
            at + begin,
            tree,
        )


def tree_name(text: bytes) -> str:
    """Return the name of a NEXUS tree from the text before it, empty if it has none."""
    match = _NAME.match(_without_comments(text))
    return match.group(1).strip(b"'").decode("utf-8", "replace") if match else ""


def _header(text: bytes, at: int, tree: int, weights: bool) -> Header:
    rooted, weight = None, None
    for kind, number in _OPTION.findall(text):
        if kind:
            rooted = kind in b"Rr"
        elif weights:
            weight = _weight(number, at, tree)
    visible = _without_comments(text).strip() if b"[" in text else text.strip()
    if not visible:
        return Header(rooted, weight)
    if visible[:1] in b"tTuU" and b"=" in visible:
        return Header(rooted, weight)
    try:
        weight = _weight(visible, at, tree)
        return Header(rooted, weight, is_bare=True) if weights else Header(rooted, None)
    except Problem as error:
        before = visible.decode("utf-8", "replace")
        raise Problem(f"{before!r} before the tree: expected nothing, or 'tree NAME ='", at, tree) from error


def _weight(text: bytes, at: int, tree: int) -> float:
    numerator, _, denominator = text.partition(b"/")
    try:
        weight = float(numerator) / (float(denominator) if denominator else 1.0)
    except (ValueError, ZeroDivisionError) as error:
        raise Problem(f"weight {text.decode('utf-8', 'replace')!r} is no number", at, tree) from error
    if not 0 <= weight < float("inf"):
        raise Problem(f"weight {weight:g} is negative or not finite", at, tree)
    return weight


def _without_comments(text: bytes) -> bytes:
    return _COMMENT.sub(lambda match: b" " * len(match.group()), text)
