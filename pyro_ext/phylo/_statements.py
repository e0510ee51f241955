"""The statements of a file that are trees, and the text before a tree: its name, weight and rooting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from pyro_ext.phylo._labels import read_label
from pyro_ext.phylo._lexer import COMMENT, Chunk, Problem

__all__ = ["Batch", "Header", "NewickFile", "NexusFile", "headers"]

_COMMENT = re.compile(COMMENT)
_KEYWORD = re.compile(
    rb"(?:\s|" + COMMENT + rb"|#NEXUS)*([A-Za-z_]+)(?:\s|" + COMMENT + rb")*([A-Za-z_]*)", re.IGNORECASE
)
_LABEL = rb"('(?:[^']|'')*'|\"[^\"]*\"|[^\s,'\"]+)"
_PAIR = re.compile(rb"\s*" + _LABEL + rb"\s+" + _LABEL + rb"\s*(,|\Z)")
_WORD = re.compile(_LABEL)
_OPTION = re.compile(rb"\[&\s*(?:([RU])|W\s+([^\]]*?))\s*\]", re.IGNORECASE)
_TREE = re.compile(rb"=\s*\(")
_NAME = re.compile(rb"\s*u?tree\s*\*?\s*('(?:[^']|'')*'|[^\s=\[]*)", re.IGNORECASE)


class Batch(NamedTuple):
    """Trees whose labels have the same meaning.

    Attributes:
        statements: the numbers of the trees' statements in the chunk.
        aliases: a mapping from labels to names.
    """

    statements: np.ndarray
    aliases: Mapping[str, str]


class Header(NamedTuple):
    """The text before a tree.

    Attributes:
        rooted: True for ``[&R]``, False for ``[&U]``, ``None`` without either.
        weight: the number in ``[&W ...]``, or before the tree; ``None`` without one.
    """

    rooted: bool | None
    weight: float | None


_BARE = Header(None, None)


class NewickFile:
    """A file in which all statements are trees."""

    is_open = False

    def batches(self, chunk: Chunk) -> Iterator[Batch]:
        """Yield the trees of a chunk."""
        if len(chunk.ends):
            yield Batch(np.arange(len(chunk.ends)), {})


class NexusFile:
    """A file of blocks, of which those named ``trees`` hold trees; it is read chunk by chunk."""

    def __init__(self) -> None:
        self._block = ""
        self._aliases: dict[str, str] = {}
        self._numbers: dict[str, str] = {}

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
                trees.append(k)
                continue
            if match and word in (b"tree", b"utree") and not self._block:
                raise Problem("a tree stands outside of all blocks: write 'begin trees;' before it", match.start(1))
            if match is None or word not in (b"begin", b"end", b"endblock", b"translate", b"taxlabels"):
                if self._block == "trees" and _TREE.search(_without_comments(chunk.text[start:end])):
                    raise Problem(
                        f"{word.decode()!r} stands where 'tree NAME = (...);' is expected",
                        match.start(1) if match else start,
                    )
                continue
            if trees:
                yield Batch(np.array(trees), self._aliases or self._numbers)
                trees = []
            self._enter(word, match.group(2), chunk.text[match.end(1) : end], match.end(1))
        if trees:
            yield Batch(np.array(trees), self._aliases or self._numbers)

    def _enter(self, word: bytes, name: bytes, rest: bytes, at: int) -> None:
        if word == b"begin":
            if self._block == "trees":
                raise Problem("a block begins within a block of trees, which has no 'end;': is the file truncated?", at)
            self._block = name.lower().decode()
            self._aliases = {}
        elif word in (b"end", b"endblock"):
            self._block = ""
        elif word == b"taxlabels":
            labels = [read_label(label[1], at + label.start()) for label in _WORD.finditer(_without_comments(rest))]
            self._numbers = {str(k): label for k, label in enumerate(labels, 1) if str(k) not in labels}
        elif self._block == "trees":
            self._aliases = _translation(rest, at)


def headers(chunk: Chunk, statements: np.ndarray, first: np.ndarray) -> list[Header]:
    """Read the text before each tree.

    Args:
        chunk: the piece of text that holds the trees.
        statements: the numbers of the trees' statements.
        first: the position of the first parenthesis of each tree.

    Raises:
        Problem: if the text before a tree is not understood.
    """
    starts = chunk.starts()[statements]
    result = []
    for tree, (start, stop) in enumerate(zip(starts.tolist(), first.tolist(), strict=True)):
        text = chunk.text[start:stop]
        blank = len(text) - len(text.lstrip())
        result.append(_header(text, start + blank, tree) if blank < len(text) else _BARE)
    return result


def tree_name(text: bytes) -> str:
    """Return the name of a NEXUS tree from the text before it, empty if it has none."""
    match = _NAME.match(_without_comments(text))
    return match.group(1).strip(b"'").decode("utf-8", "replace") if match else ""


def _header(text: bytes, at: int, tree: int) -> Header:
    rooted, weight = None, None
    for kind, number in _OPTION.findall(text):
        if kind:
            rooted = kind in b"Rr"
        else:
            weight = _weight(number, at, tree)
    visible = _without_comments(text).strip() if b"[" in text else text.strip()
    if not visible:
        return Header(rooted, weight)
    if visible[:1] in b"tTuU" and b"=" in visible:
        return Header(rooted, weight)
    try:
        return Header(rooted, _weight(visible, at, tree))  # a number before the tree
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


def _translation(text: bytes, at: int) -> dict[str, str]:
    """Read the labels and names of ``1 Name, 2 Other``."""
    text = _without_comments(text)
    aliases: dict[str, str] = {}
    place = 0
    while text[place:].strip():
        match = _PAIR.match(text, place)
        if match is None:
            raise Problem("'translate' is not a list of 'LABEL NAME,'", at + place)
        label, name = (read_label(match[k], at + match.start(k)) for k in (1, 2))
        if label in aliases:
            raise Problem(f"'translate' has label {label!r} twice", at + match.start(1))
        aliases[label] = name
        place = match.end()
    names = list(aliases.values())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Problem(f"'translate' gives taxon {twice!r} two labels", at)
    return aliases
