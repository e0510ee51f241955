"""Words of NEXUS, and the taxa that its blocks name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pyro_ext.phylo._labels import read_label
from pyro_ext.phylo._lexer import QUOTED, Problem

__all__ = ["TaxaBlocks", "folded", "linked_taxa", "options", "translation", "words"]

_WORD = re.compile(QUOTED + rb"|\S++")
_PAIR_WORD = rb"(" + QUOTED + rb"|[^\s,]++)"
_PAIR = re.compile(rb"\s*+" + _PAIR_WORD + rb"\s++" + _PAIR_WORD + rb"\s*+(,|\Z)")
_MIXED = rb"[A-Za-z]*+\s*+\([^()]*+\)"
_OPTION = re.compile(rb"\s*+([A-Za-z]\w*+)(?:\s*+=\s*+(" + QUOTED + rb"|" + _MIXED + rb"|\S++))?\s*+")
_LINK = re.compile(rb"\btaxa\s*+=\s*+(" + QUOTED + rb"|\S++)", re.IGNORECASE)


def folded(name: str) -> str:
    """Return a name as NEXUS compares it: without regard to case, and with underscores for blanks."""
    return name.replace(" ", "_").casefold()


def words(text: bytes, at: int) -> list[str]:
    """Return the words of a list such as TAXLABELS; an apostrophe within a word is a part of it.

    Args:
        text: the list, without comments.
        at: the position of the list in the file, for errors.

    Raises:
        Problem: if a word is no UTF-8.
    """
    labels = ((match.group().rstrip(b","), match.start()) for match in _WORD.finditer(text))
    return [read_label(label, at + start) for label, start in labels if label]


def options(text: bytes, at: int) -> list[tuple[str, str | None]]:
    """Return the words of a statement such as ``FORMAT datatype=dna interleave``, with the values behind ``=``.

    Args:
        text: the statement without its first word and without comments.
        at: the position of the text in the file, for errors.

    Raises:
        Problem: if it is no such statement.
    """
    result = []
    place = len(text) - len(text.lstrip())
    while place < len(text):
        match = _OPTION.match(text, place)
        if match is None:
            rest = text[place : place + 20].decode("utf-8", "replace").strip()
            raise Problem(f"{rest!r} stands where a word such as 'datatype=dna' is expected", at + place)
        value = match.group(2)
        result.append(
            (match.group(1).lower().decode(), None if value is None else read_label(value, at + match.start(2)))
        )
        place = match.end()
    return result


def translation(text: bytes, at: int) -> dict[str, str]:
    """Return the names by label of a TRANSLATE statement, ``1 Name, 2 Other``.

    Args:
        text: the statement without its first word and without comments.
        at: the position of the text in the file, for errors.

    Raises:
        Problem: if it is no such list, or a label or a name comes twice.
    """
    aliases: dict[str, str] = {}
    names: set[str] = set()
    text, place = text.rstrip(), 0
    while place < len(text):
        match = _PAIR.match(text, place)
        if match is None:
            raise Problem("'translate' is not a list of 'LABEL NAME,'", at + place)
        label, name = (read_label(match[k], at + match.start(k)) for k in (1, 2))
        if label in aliases:
            raise Problem(f"'translate' has label {label!r} twice", at + match.start(1))
        if name in names:
            raise Problem(f"'translate' gives taxon {name!r} two labels", at)
        aliases[label] = name
        names.add(name)
        place = match.end()
    return aliases


def linked_taxa(text: bytes, at: int) -> str | None:
    """Return the title in ``LINK TAXA = title``, None if the statement links something else."""
    match = _LINK.search(text)
    return None if match is None else read_label(match.group(1), at + match.start(1))


@dataclass
class _Taxa:
    title: str | None = None
    size: int | None = None
    labels: list[str] = field(default_factory=list)


class TaxaBlocks:
    """The TAXA blocks of a file, and the blocks of characters that name taxa themselves."""

    def __init__(self) -> None:
        self._blocks: list[_Taxa] = []

    def begin(self) -> None:
        """Enter a block."""
        self._blocks.append(_Taxa())

    def read(self, word: str, text: bytes, at: int) -> None:
        """Read a statement of the block entered last; those that do not concern taxa are passed over.

        Args:
            word: the first word of the statement, in lower case.
            text: the rest of the statement, without comments.
            at: the position of the text in the file, for errors.

        Raises:
            Problem: if a name comes twice, or there are not as many as NTAX says.
        """
        block = self._blocks[-1]
        if word == "title":
            block.title = next(iter(words(text, at)), None)
        elif word == "dimensions":
            block.size = count_in(text, "ntax", at)
        elif word == "taxlabels":
            block.labels = words(text, at)
            twice = _repeated(block.labels)
            if twice is not None:
                raise Problem(f"TAXLABELS has taxon {twice!r} twice", at)
        if block.labels and block.size is not None and len(block.labels) != block.size:
            raise Problem(f"TAXLABELS has {len(block.labels)} names, but NTAX is {block.size}", at)

    def own(self) -> tuple[list[str], int | None]:
        """Return the names in the block entered last and the number of taxa that it declares."""
        block = self._blocks[-1]
        return block.labels, block.size

    def labels(self, link: str | None, at: int) -> list[str] | None:
        """Return the names of the taxa that a block refers to.

        Args:
            link: the title of the TAXA block that the block is linked to, None if to none.
            at: the position of the block in the file, for errors.

        Returns:
            The names in order, none if no block has any; None if several blocks have different ones and ``link`` does
            not say which.

        Raises:
            Problem: if there is no block of this title, or there are several.
        """
        named = [block for block in self._blocks if block.labels]
        if link is not None:
            named = [block for block in named if block.title is not None and folded(block.title) == folded(link)]
            if not named:
                raise Problem(f"there is no TAXA block with the title {link!r} before the LINK to it", at)
        if not named:
            return []
        first = named[0].labels
        return first if all(block.labels == first for block in named) else None


def count_in(text: bytes, key: str, at: int) -> int | None:
    """Return the number of taxa or characters in a DIMENSIONS statement, None if it has none.

    Raises:
        Problem: if it is no number.
    """
    value = dict(options(text, at)).get(key)
    if value is None:
        return None
    if not re.fullmatch("[0-9]{1,12}", value):
        raise Problem(f"{key.upper()}={value} is no number", at)
    return int(value)


def _repeated(names: list[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
