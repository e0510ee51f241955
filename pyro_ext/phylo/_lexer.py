"""Newick text, many trees at a time, as arrays of tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

__all__ = ["CLOSE", "COLON", "COMMA", "COMMENT", "END", "OPEN", "QUOTED", "Chunk", "Problem", "Tokens", "tokenize"]

OPEN, COMMA, CLOSE, COLON, END = 1, 2, 3, 4, 5
_CODES = np.zeros(256, np.uint8)
for _code, _character in enumerate(b"(,):;", start=1):
    _CODES[_character] = _code
_BLANK = np.zeros(256, bool)
_BLANK[list(b" \t\r\n\f\v")] = True


def _comment(end: bytes, depth: int = 6) -> bytes:
    """Return a pattern of comments that may be nested ``depth`` deep; ``end`` is the pattern that closes them."""
    inner = b"" if depth == 1 else b"|" + _comment(end, depth - 1)
    return rb"\[(?:[^\[\]]++" + inner + rb")*+" + end


COMMENT = _comment(rb"\]")
"""The pattern of a comment."""

QUOTED = rb"'[^']*+(?:''[^']*+)*+'|\"[^\"]*+\""
"""The pattern of a label in quotes."""


def _hidden_pattern(before: bytes) -> re.Pattern[bytes]:
    """Return the pattern of comments and quoted labels.

    A quote opens a label after one of the characters ``before``, and is else a part of a word, as in O'Brien; a comment
    or label that is not closed reaches to the end.
    """
    quoted = rb"(?:'[^']*+(?:''[^']*+)*+(?:'|\Z)|\"[^\"]*+(?:\"|\Z))"
    return re.compile(rb"(" + _comment(rb"(?:\]|\Z)") + rb")|(?:(?<=[" + before + rb"])|\A)" + quoted)


_BEFORE = _BLANK.copy()
_BEFORE[list(b"(,)]")] = True
_BEFORE_IN_NEXUS = _BEFORE.copy()
_BEFORE_IN_NEXUS[list(b"=*")] = True
_IN_NEWICK, _IN_NEXUS = _hidden_pattern(rb"(,)\]\s"), _hidden_pattern(rb"(,)\]\s=*")


class Problem(ValueError):
    """An error in a text.

    Args:
        message: the description of the error.
        at: the position of the error, in bytes.
        tree: the number of the tree with the error, counted from 0; None if it lies in no tree.
    """

    def __init__(self, message: str, at: int, tree: int | None = None) -> None:
        super().__init__(message)
        self.message, self.at, self.tree = message, at, tree


class Chunk:
    """A piece of text, and the positions at which its statements end.

    Args:
        text: the bytes of the text.
        is_nexus: whether the text is NEXUS, in which a quote may also stand behind ``=`` or ``*``.

    Attributes:
        text: the bytes of the text.
        array: the bytes of the text as an array.
        comment: which bytes belong to comments, ``None`` if none do.
        quoted: which bytes belong to quoted labels, ``None`` if none do.
        ends: the positions of the semicolons that end statements.
        opens: the positions of the opening parentheses.
    """

    def __init__(self, text: bytes, is_nexus: bool = False) -> None:
        self.text = text
        self.array = np.frombuffer(text, np.uint8)
        self.comment, self.quoted = _hidden(text, self.array, _IN_NEXUS if is_nexus else _IN_NEWICK)
        self.ends, self.opens = (self._visible(character) for character in b";(")

    def _visible(self, character: int) -> np.ndarray:
        at = np.flatnonzero(self.array == character)
        for hidden in (self.comment, self.quoted):
            if hidden is not None:
                at = at[~hidden[at]]
        return at

    def bodies(self, statements: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where trees begin and end: at a statement's first parenthesis and at its semicolon.

        Args:
            statements: the numbers of the statements that are trees.

        Raises:
            Problem: if one of them has no tree.
        """
        ends = self.ends[statements]
        starts = self.starts()[statements]
        first = np.searchsorted(self.opens, starts)
        begins = np.append(self.opens, len(self.text))[first]
        if (begins > ends).any():
            tree = int(np.argmax(begins > ends))
            raise Problem("there is no tree before the ';': write it as (a,(b,c));", int(ends[tree]), tree)
        return begins, ends

    def starts(self) -> np.ndarray:
        """Return where statements start: after the end of the statement before."""
        return np.concatenate([[0], self.ends[:-1] + 1])[: len(self.ends)]


@dataclass
class Tokens:
    """The text of trees without blanks and comments, and the positions of its punctuation.

    Attributes:
        body: the text of the trees, each with its semicolon, then eight zero bytes.
        quoted: which bytes of ``body`` belong to quoted labels, ``None`` if none do.
        at: the position in ``body`` of each token, that is each punctuation mark outside of quotes.
        code: the kind of each token, such as ``OPEN``.
        depth: how many parentheses are open after each token.
        ends: the number of the last token of each tree.
        kept: which bytes of the chunk are in ``body``, ``None`` if all from ``first`` on; see :meth:`place`.
        first: the position in the chunk at which ``body`` begins.
        origin: the tokens from which these were selected or rewritten, and the number of the one that each comes from;
            ``None`` if these are as they stand in the text.
    """

    body: np.ndarray
    quoted: np.ndarray | None
    at: np.ndarray
    code: np.ndarray
    depth: np.ndarray
    ends: np.ndarray
    kept: np.ndarray | None = None
    first: int = 0
    origin: tuple[Tokens, np.ndarray] | None = None

    def place(self, token: int) -> int:
        """Return the position of a token in the chunk."""
        if self.origin is not None:
            tokens, numbers = self.origin
            return tokens.place(int(numbers[token]))
        at = int(self.at[token])
        return at + self.first if self.kept is None else int(np.flatnonzero(self.kept)[at])

    def tree(self, token: int) -> int:
        """Return the number of the tree that a token belongs to."""
        return int(np.searchsorted(self.ends, token))

    def label(self, token: int) -> str:
        """Return the text between a token and the next."""
        return self.body[self.at[token] + 1 : self.at[token + 1]].tobytes().decode("utf-8", "replace")


def tokenize(chunk: Chunk, starts: np.ndarray, ends: np.ndarray) -> Tokens:
    """Find the tokens of trees and check the order in which they follow one another.

    Args:
        chunk: the piece of text that holds the trees.
        starts: the position of the first parenthesis of each tree.
        ends: the position of the semicolon of each tree.

    Raises:
        Problem: at the first place that is no Newick.
    """
    if _is_plain(chunk, starts, ends):
        first, last = int(starts[0]), int(ends[-1]) + 1
        tokens = _tokens(chunk.array[first:last], None, None, first)
    else:
        kept = np.zeros(len(chunk.text) + 1, np.int8)
        kept[starts] = 1
        kept[ends + 1] -= 1
        kept = np.cumsum(kept[:-1], dtype=np.int8).view(bool)
        blank = _BLANK[chunk.array]
        if chunk.quoted is not None:
            blank &= ~chunk.quoted
        if chunk.comment is not None:
            blank |= chunk.comment
        kept &= ~blank
        tokens = _tokens(chunk.array[kept], None if chunk.quoted is None else chunk.quoted[kept], kept, 0)
    _check_neighbours(tokens)
    _check_depth(tokens)
    if tokens.kept is not None:
        _check_blanks(tokens)
    return tokens


def _is_plain(chunk: Chunk, starts: np.ndarray, ends: np.ndarray) -> bool:
    """Return whether no byte has to be left out: no comments, no quotes, and blanks only between trees."""
    if chunk.comment is not None or chunk.quoted is not None:
        return False
    first = int(starts[0])
    blank = np.flatnonzero(chunk.array[first : int(ends[-1])] <= ord(" ")) + first
    between = int((starts[1:] - ends[:-1] - 1).sum())
    before_trees = blank < starts[np.searchsorted(ends, blank)]
    return len(blank) == between and bool(before_trees.all())


def _tokens(body: np.ndarray, quoted: np.ndarray | None, kept: np.ndarray | None, first: int) -> Tokens:
    codes = _CODES[body]
    if quoted is not None:
        codes[quoted] = 0
    at = np.flatnonzero(codes)
    code = codes[at]
    depth = np.cumsum((code == OPEN).view(np.int8) - (code == CLOSE).view(np.int8), dtype=np.int32)
    body = np.concatenate([body, np.zeros(8, np.uint8)])
    return Tokens(body, quoted, at, code, depth, np.flatnonzero(code == END), kept, first)


def _hidden(text: bytes, array: np.ndarray, pattern: re.Pattern[bytes]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Find comments and quoted labels."""
    if b"'" not in text and b'"' not in text:
        if b"[" not in text:
            return None, None
        step = (array == ord("[")).view(np.int8) - (array == ord("]")).view(np.int8)
        inside = np.cumsum(step, dtype=np.int32)
        if not len(inside) or inside.min() >= 0:
            return (inside > 0) | (step < 0), None
    if b'"' not in text and b"[" not in text:
        spans = _alternating(array, pattern)
        if spans is not None:
            return None, _spans(spans, len(text))
    marks: tuple[list[int], list[int]] = ([], [])
    for match in pattern.finditer(text):
        marks[match.group(1) is None].extend(match.span())
    comment, quoted = (_spans(np.array(spans, np.int64), len(text)) for spans in marks)
    return comment, quoted


def _alternating(array: np.ndarray, pattern: re.Pattern[bytes]) -> np.ndarray | None:
    """Return where quotes open and close, if they do so in turns; None where one is a part of a word."""
    at = np.flatnonzero(array == ord("'"))
    if len(at) % 2:
        return None
    opens = at[0::2]
    before = array[opens - 1]
    right = (_BEFORE_IN_NEXUS if pattern is _IN_NEXUS else _BEFORE)[before] | (opens == 0)
    right[1:] |= opens[1:] == at[1:-1:2] + 1  # a quote within a label, which is written twice
    return np.stack([opens, at[1::2] + 1], -1).reshape(-1) if right.all() else None


def _spans(spans: np.ndarray, length: int) -> np.ndarray | None:
    if not len(spans):
        return None
    step = np.zeros(length + 1, np.int8)
    np.add.at(step, spans[0::2], 1)
    np.add.at(step, spans[1::2], -1)
    return np.cumsum(step[:-1], dtype=np.int8).view(bool)


def _follows() -> np.ndarray:
    """Return whether one token may follow another, ``[first, second, whether there is text between them]``."""
    table = np.zeros((6, 6, 2), bool)
    for first in (OPEN, COMMA):
        table[first, OPEN, 0] = True
        table[first, [COMMA, CLOSE, COLON], 1] = True
    table[CLOSE, [COMMA, CLOSE, COLON, END]] = True
    table[COLON, [COMMA, CLOSE, END], 1] = True
    table[END, OPEN] = True
    return table


_FOLLOWS = _follows().reshape(-1)


def _check_neighbours(tokens: Tokens) -> None:
    code, at = tokens.code, tokens.at
    between = (np.diff(at) > 1).view(np.uint8)
    wrong = ~_FOLLOWS[code[:-1] * np.uint8(12) + code[1:] * np.uint8(2) + between]
    if not wrong.any():
        return
    token = int(np.argmax(wrong))
    text = tokens.label(token)
    first, second = (chr(b"?(,):;"[code[k]]) for k in (token, token + 1))
    message = f"{text!r} between {first!r} and {second!r}" if text else f"{second!r} right after {first!r}"
    if code[token] in (OPEN, COMMA) and code[token + 1] != OPEN and not text:
        message += ": a taxon's name is missing"
    elif code[token] == COLON and not text:
        message += ": a branch length is missing"
    elif code[token + 1] == END:
        message += ": the tree breaks off"
    raise Problem(f"{message}; not a tree in Newick", tokens.place(token + 1), tokens.tree(token + 1))


def _check_depth(tokens: Tokens) -> None:
    code, depth = tokens.code, tokens.depth
    wrong = (depth < 0) | ((code == COMMA) & (depth < 1)) | ((code == END) & (depth != 0))
    if not wrong.any():
        return
    token = int(np.argmax(wrong))
    num_open = int(depth[token])
    what = f"{num_open} '(' without its ')'" if code[token] == END and num_open > 0 else "a ')' without its '('"
    raise Problem(f"unbalanced parentheses, {what}", tokens.place(token), tokens.tree(token))


def _check_blanks(tokens: Tokens) -> None:
    """Refuse blanks and comments within a name or number."""
    assert tokens.kept is not None
    gap = np.diff(np.flatnonzero(tokens.kept)) > 1
    plain = np.ones(len(gap) + 1, bool)
    plain[tokens.at] = False
    inner = gap & plain[:-1] & plain[1:]
    if inner.any():
        byte = int(np.argmax(inner))
        token = int(np.searchsorted(tokens.at, byte))
        raise Problem(
            f"a blank within {tokens.label(token - 1)!r}: put names with blanks in quotes",
            tokens.place(token),
            tokens.tree(token),
        )
