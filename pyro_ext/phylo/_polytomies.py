"""Trees with multifurcations: left out, or resolved in one way or in all."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from pyro_ext.phylo._lexer import CLOSE, COLON, COMMA, END, OPEN, Tokens

__all__ = ["multifurcating", "num_resolutions", "resolved", "selected"]

_Piece = tuple[int, bytes]
"""A punctuation mark and the text behind it."""

_Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""The text of a tree, where its tokens begin, their codes and their places in the file."""


class _Node:
    """A subtree: its pieces if it is taken as it stands, else the nodes below it.

    Args:
        below: the subtrees of an inner node, none for a leaf.
        name: the text of a leaf, or behind the parenthesis of an inner node.
        length: the text of the branch above, None without one.
    """

    def __init__(self, below: list[_Node], name: bytes, length: bytes | None) -> None:
        self.below, self.name, self.length = below, name, length


def multifurcating(tokens: Tokens, at_top: np.ndarray) -> np.ndarray:
    """Return which trees have a node with too many subtrees.

    Args:
        tokens: the tokens of the trees, as :func:`.tokenize` returns them.
        at_top: how many subtrees each tree may have at the top, 2 or 3.

    Returns:
        A bool for each tree.
    """
    token = np.flatnonzero((tokens.code == OPEN) | (tokens.code == COMMA))
    tree = np.searchsorted(tokens.ends, token)
    level = tokens.depth[token]
    order = np.lexsort((level, tree))  # stable: those of one node follow one another
    is_comma = tokens.code[token[order]] == COMMA
    tree, level = tree[order], level[order]
    in_a_row = _run_lengths(is_comma)
    most = np.where(level > 1, 1, at_top[tree] - 1)
    found = np.zeros(len(tokens.ends), bool)
    found[tree[in_a_row > most]] = True
    return found


def selected(tokens: Tokens, which: np.ndarray) -> Tokens:
    """Return the tokens of some of the trees."""
    return _joined(tokens, (_as_it_stands(tokens, int(tree)) for tree in np.flatnonzero(which)))


def num_resolutions(tokens: Tokens, tree: int, at_top: int) -> int:
    """Return in how many ways the multifurcations of a tree can be resolved.

    Args:
        tokens: the tokens of all trees.
        tree: which tree.
        at_top: how many subtrees it is to have at the top, 2 or 3.
    """
    return math.prod(number for node in _open_nodes(_read(tokens, tree), at_top) for number in node.choices)


def resolved(
    tokens: Tokens, which: np.ndarray, at_top: np.ndarray, how: str, rng: random.Random
) -> tuple[Tokens, np.ndarray]:
    """Resolve the multifurcations of some of the trees.

    New branches have length 0 if the tree has any lengths.

    Args:
        tokens: the tokens of all trees.
        which: the trees to resolve, a bool for each.
        at_top: how many subtrees each tree is to have at the top, 2 or 3.
        how: ``"random"`` for one of all possible ways of equal probability, ``"zero_length"`` for the same way always,
            subtrees joining one after the other, ``"all"`` for all ways.
        rng: the source of chance.

    Returns:
        The tokens, and how many trees each of the trees has become.
    """
    numbers = np.ones(len(which), np.int64)

    def parts() -> Iterator[_Part]:
        for tree, wanted in enumerate(which.tolist()):
            if not wanted:
                yield _as_it_stands(tokens, tree)
                continue
            number = 0
            for part in _rewritten(tokens, tree, int(at_top[tree]), how, rng):
                yield part
                number += 1
            numbers[tree] = number

    return _joined(tokens, parts()), numbers


def _run_lengths(flags: np.ndarray) -> np.ndarray:
    """Return how many true values in a row end at each place."""
    number = np.arange(1, len(flags) + 1)
    last_false = np.maximum.accumulate(np.where(flags, 0, number))
    return number - last_false


def _first(tokens: Tokens, tree: int) -> int:
    return 0 if tree == 0 else int(tokens.ends[tree - 1]) + 1


def _as_it_stands(tokens: Tokens, tree: int) -> _Part:
    first, last = _first(tokens, tree), int(tokens.ends[tree])
    begin, end = int(tokens.at[first]), int(tokens.at[last]) + 1
    places = np.arange(first, last + 1)
    return tokens.body[begin:end], tokens.at[first : last + 1] - begin, tokens.code[first : last + 1], places


def _rewritten(tokens: Tokens, tree: int, at_top: int, how: str, rng: random.Random) -> Iterator[_Part]:
    root = _read(tokens, tree)
    has_lengths = bool((tokens.code[_first(tokens, tree) : tokens.ends[tree]] == COLON).any())
    nodes = _open_nodes(root, at_top)
    if how == "all":
        ways: Iterator[Iterator[int]] = map(iter, product(*(range(n) for node in nodes for n in node.choices)))
    else:
        ways = iter([(n - 1 if how == "zero_length" else rng.randrange(n) for node in nodes for n in node.choices)])
    for way in ways:
        for node in nodes:
            node.node.below = _grown(node.subtrees, node.at_top, has_lengths, way.__next__)
        yield _tokens_of(_written(root), int(tokens.ends[tree]))


def _tokens_of(pieces: list[_Piece], place: int) -> _Part:
    code = np.array([mark for mark, _ in pieces], np.uint8)
    texts = [b"?(,):;"[mark : mark + 1] + text for mark, text in pieces]
    sizes = np.array([len(text) for text in texts])
    body = np.frombuffer(b"".join(texts), np.uint8)
    return body, np.cumsum(sizes) - sizes, code, np.full(len(code), place)


def _read(tokens: Tokens, tree: int) -> _Node:
    text, at = tokens.body, tokens.at
    open_nodes: list[list[_Node]] = []
    last = _Node([], b"", None)
    for token in range(_first(tokens, tree), int(tokens.ends[tree])):
        code = int(tokens.code[token])
        behind = text[at[token] + 1 : at[token + 1]].tobytes()
        if code == COLON:
            last.length = behind
            continue
        if code == OPEN:
            open_nodes.append([])
        if code == CLOSE:
            last = _Node(open_nodes.pop(), behind, None)
        elif tokens.code[token + 1] == OPEN:
            continue
        else:
            last = _Node([], behind, None)
        if open_nodes:
            open_nodes[-1].append(last)
    return last


class _OpenNode(NamedTuple):
    """A node with too many subtrees.

    Attributes:
        node: the node.
        subtrees: its subtrees.
        at_top: how many subtrees it is to have.
    """

    node: _Node
    subtrees: list[_Node]
    at_top: int

    @property
    def choices(self) -> range:
        """For each subtree to be added, the number of edges that it may be added to."""
        return range(3, 3 + 2 * (len(self.subtrees) - self.at_top), 2)


def _open_nodes(root: _Node, at_top: int) -> list[_OpenNode]:
    """Return the nodes with too many subtrees."""
    waiting, found = [root], []
    while waiting:
        node = waiting.pop()
        waiting += node.below
        most = at_top if node is root else 2
        if len(node.below) > most:
            found.append(_OpenNode(node, node.below, most))
    return found


def _grown(subtrees: list[_Node], at_top: int, has_lengths: bool, choose: Callable[[], int]) -> list[_Node]:
    """Return the subtrees at the top of a binary tree, to whose edges one subtree is added after the other.

    If each of the edges is chosen with equal probability, so is each tree.
    """
    top = _Node(subtrees[:at_top], b"", None)
    edges = [(top, k) for k in range(at_top)]  # the edge to the subtree that a node has at place k
    for added in subtrees[at_top:]:
        choice = choose()
        new = _Node([], b"", b"0" if has_lengths else None)
        if choice == len(edges):  # the edge above the root of a rooted tree
            new.below, top.below = top.below, [new, added]
            edges = [(new if above is top else above, k) for above, k in edges] + [(top, 0), (top, 1)]
            continue
        above, k = edges[choice]
        new.below = [above.below[k], added]
        above.below[k] = new
        edges += [(new, 0), (new, 1)]
    return top.below


def _written(root: _Node) -> list[_Piece]:
    pieces: list[_Piece] = []
    waiting: list[_Node | _Piece] = [(END, b""), root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple):
            pieces.append(node)
            continue
        if node.length is not None:
            waiting.append((COLON, node.length))
        if not node.below:
            mark, _ = pieces[-1]  # a leaf is the text behind a parenthesis or a comma
            pieces[-1] = (mark, node.name)
            continue
        waiting.append((CLOSE, node.name))
        for k in reversed(range(len(node.below))):
            waiting += [node.below[k], (COMMA if k else OPEN, b"")]
    return pieces


def _joined(tokens: Tokens, parts: Iterator[_Part]) -> Tokens:
    bodies, ats, codes, places = zip(*parts, strict=True)
    sizes = np.array([len(body) for body in bodies])
    starts = np.cumsum(sizes) - sizes
    code = np.concatenate(codes)
    at = np.concatenate([own + start for own, start in zip(ats, starts.tolist(), strict=True)])
    depth = np.cumsum((code == OPEN).view(np.int8) - (code == CLOSE).view(np.int8), dtype=np.int32)
    return replace(
        tokens,
        body=np.concatenate([*bodies, np.zeros(8, np.uint8)]),
        at=at,
        code=code,
        depth=depth,
        ends=np.flatnonzero(code == END),
        origin=(tokens, np.concatenate(places)),
    )
