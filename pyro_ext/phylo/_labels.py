"""Names of taxa in a text, looked up many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pyro_ext.phylo._lexer import Problem

__all__ = ["LabelTable", "read_label", "unquote"]

_WORD = 8
_MASKS = np.array([(1 << 8 * k) - 1 for k in range(_WORD)] + [2**64 - 1], np.uint64)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def unquote(label: bytes) -> str:
    """Return the name that a label stands for.

    Raises:
        UnicodeDecodeError: if it is no UTF-8.
    """
    name = label.strip().decode("utf-8")
    mark = name[:1]
    if mark in ("'", '"') and len(name) > 1 and name[-1] == mark:
        return name[1:-1].replace(mark * 2, mark)
    return name


def read_label(label: bytes, at: int, tree: int | None = None) -> str:
    """Return the name that a label stands for.

    Args:
        label: the label as it stands in the text, with its quotes.
        at: the position of the label in the text.
        tree: the number of the tree that the label belongs to, None if to none.

    Raises:
        Problem: if it is no UTF-8.
    """
    try:
        return unquote(label)
    except UnicodeDecodeError as error:
        raise Problem(f"{label!r} is no UTF-8: convert the file", at, tree) from error


class LabelTable:
    """Finds the numbers of taxa from their names as they stand in a text.

    A name is read as 8-byte words. The words are mixed into one key, which is searched for among the keys of the known
    names, and then compared; so no Python runs for each name. Other spellings, such as those with quotes, are added
    when they occur.

    Args:
        taxa: the names of the taxa, in the order of their numbers.
        aliases: a mapping from labels to names, as in a NEXUS ``translate`` statement.
        spellings: names by how they are spelled in a text, with quotes, where that is known.
    """

    def __init__(
        self,
        taxa: Sequence[str],
        aliases: Mapping[str, str] | None = None,
        spellings: Mapping[bytes, str] | None = None,
    ) -> None:
        self.aliases = dict(aliases or {})
        self._numbers = {name: number for number, name in enumerate(taxa)}
        known = {name: name for name in taxa} | {
            key: name for key, name in self.aliases.items() if name in self._numbers
        }
        self._spellings = {label.encode(): self._numbers[name] for label, name in known.items()}
        self._spellings |= {label: self._numbers[name] for label, name in (spellings or {}).items()}
        self._build()

    def name(self, label: str) -> str:
        """Return the name that an unquoted label stands for."""
        return self.aliases.get(label, label)

    def find(self, body: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return the number of the taxon named by each slice of ``body``, -1 where there is none.

        Args:
            body: the text as uint8, followed by at least eight further bytes.
            starts: the position of the first byte of each name.
            stops: the position after the last byte of each name.
        """
        numbers = self._search(body, starts, stops)
        missing = np.flatnonzero(numbers < 0)
        at_once = max(64, len(self._numbers))  # those of a tree, then twice as many, so that the table is built rarely
        while len(missing):
            labels = (body[starts[k] : stops[k]].tobytes() for k in missing[:at_once])
            if not self._learn(labels):
                break
            numbers[missing] = self._search(body, starts[missing], stops[missing])
            missing = missing[numbers[missing] < 0]
            at_once *= 2
        return numbers

    def _learn(self, labels: Iterable[bytes]) -> bool:
        """Add spellings until one is of no known taxon; return whether the first was known."""
        size = len(self._spellings)
        for label in labels:
            try:
                number = self._numbers.get(self.name(unquote(label)))
            except UnicodeDecodeError:
                break
            if number is None:
                break
            self._spellings[label] = number
        if len(self._spellings) == size:
            return False
        self._build()
        return True

    def _build(self) -> None:
        spellings = list(self._spellings)
        lengths = np.array([len(label) for label in spellings], np.int64)
        body = np.frombuffer(b"".join(spellings) + bytes(_WORD), np.uint8)
        stops = np.cumsum(lengths)
        keys, words = _words(body, stops - lengths, stops, int(lengths.max(initial=1)))
        order = np.argsort(keys, kind="stable")
        self._keys, self._words = keys[order], [word[order] for word in words]
        self._values = np.array(list(self._spellings.values()), np.int64)[order]
        self._longest = int(lengths.max(initial=1))

    def _search(self, body: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        keys, words = _words(body, starts, stops, self._longest)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        same = stops - starts <= self._longest
        for own, known in zip(words, self._words, strict=True):
            same &= own == known[at]
        return np.where(same, self._values[at], -1)


def _words(
    body: np.ndarray, starts: np.ndarray, stops: np.ndarray, longest: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return one key per slice, and the slice as words, as many as the longest name has."""
    view = np.ndarray((len(body) - _WORD + 1,), "<u8", buffer=body.data, strides=(1,))
    lengths = stops - starts
    words = []
    keys = np.zeros(len(starts), np.uint64)
    for first in range(0, longest, _WORD):
        rest = np.clip(lengths - first, 0, _WORD)
        word = view[np.minimum(starts + first, len(view) - 1)] & _MASKS[rest]
        keys = (keys ^ (keys >> np.uint64(29))) * _MIX + word
        words.append(word)
    return keys, words
