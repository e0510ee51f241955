"""From tokens to parent vectors, many trees at a time and without a loop over nodes.

All trees are binary, so each inner node has one comma. If the nodes are sorted by depth, and within a depth in the
order of the text, the children of the nodes at one depth are the nodes at the next, two by two. This gives the parent
of every node.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pyro_ext.ops.kernels import use_kernels
from pyro_ext.phylo._labels import LabelTable, read_label, unquote
from pyro_ext.phylo._lexer import CLOSE, COLON, COMMA, OPEN, Problem, Tokens
from pyro_ext.phylo._polytomies import multifurcating

__all__ = ["Parsed", "first_labels", "parse"]

_MANY = 10_000  # numbers that are worth a kernel
_DECIMAL = re.compile(rb"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class Parsed(NamedTuple):
    """Trees with their nodes in the order of the text.

    Attributes:
        parents: the parent of each node, ``(T, 2n - 1)``; internal nodes are numbered in the order of the text, the
            root is node n. A tree whose root has three children has no last node.
        lengths: the length of the edge above each node, ``(T, 2n - 1)``, NaN where the text has none; ``None`` if the
            text has no lengths at all, or none were wanted.
        num_internal: how many internal nodes each tree has, n - 1 or n - 2.
    """

    parents: np.ndarray
    lengths: np.ndarray | None
    num_internal: np.ndarray


class _Nodes(NamedTuple):
    """All nodes but the roots, in the order of the text.

    Attributes:
        token: the number of the token before each node, a parenthesis or a comma.
        inner: whether each node is an internal node.
        leaf: the numbers of the tokens before leaves.
    """

    token: np.ndarray
    inner: np.ndarray
    leaf: np.ndarray


def first_labels(tokens: Tokens, aliases: Mapping[str, str]) -> dict[bytes, str]:
    """Return the names of the first tree's taxa, by how they are spelled in the text.

    Args:
        tokens: the tokens of the trees, as :func:`.tokenize` returns them.
        aliases: a mapping from labels to names.

    Raises:
        Problem: if a taxon comes twice.
    """
    names: set[str] = set()
    spellings: dict[bytes, str] = {}
    nodes = _nodes(tokens)
    leaves = nodes.leaf[nodes.leaf < tokens.ends[0]]
    text = tokens.body[: tokens.at[tokens.ends[0]] + 1].tobytes()
    starts, stops = (tokens.at[leaves] + 1).tolist(), tokens.at[leaves + 1].tolist()
    for token, start, stop in zip(leaves, starts, stops, strict=True):
        raw = text[start:stop]
        try:
            label = unquote(raw)
        except UnicodeDecodeError:
            label = read_label(raw, tokens.place(token), 0)  # which says where it is
        name = aliases.get(label, label)
        if name in names:
            raise Problem(f"taxon {name!r} comes twice", tokens.place(token), 0)
        names.add(name)
        spellings[raw] = name
    return spellings


def parse(tokens: Tokens, taxa: tuple[str, ...], table: LabelTable, want_lengths: bool) -> Parsed:
    """Find the parents of all nodes, and the lengths of the edges above them.

    Args:
        tokens: the tokens of the trees, as :func:`.tokenize` returns them.
        taxa: the sorted names of the taxa.
        table: the table that looks up the numbers of the taxa.
        want_lengths: whether to read branch lengths.

    Raises:
        Problem: if a tree has other taxa, or is not binary, or a length is no number.
    """
    nodes = _nodes(tokens)
    number = _leaf_numbers(tokens, nodes, taxa, table)
    num_trees, n = len(tokens.ends), len(taxa)
    width = 2 * n - 1
    counts = np.diff(np.searchsorted(nodes.token, tokens.ends), prepend=0)
    inner_counts = np.diff(np.searchsorted(nodes.token[nodes.inner], tokens.ends), prepend=0)
    place = np.empty(len(nodes.token), np.int64)
    place[~nodes.inner] = number
    before = np.repeat(np.cumsum(inner_counts) - inner_counts, inner_counts)
    place[nodes.inner] = np.arange(len(before)) - before + n + 1
    level = tokens.depth[nodes.token]
    order = _by_depth(level)
    at_root = int((level == 1).sum())
    _check_binary(tokens, nodes, level, order[at_root:], inner_counts, n)
    flat = np.repeat(np.arange(num_trees) * width, counts) + place
    inner_order = order[nodes.inner[order]]
    parents = np.full(num_trees * width, -1, np.int64)
    parents[flat[order[:at_root]]] = n
    parents[flat[order[at_root:]]] = np.repeat(place[inner_order], 2)
    lengths = None
    if want_lengths and (tokens.code == COLON).any():
        lengths = _lengths(tokens, nodes, flat, inner_order, num_trees * width).reshape(num_trees, width)
    return Parsed(parents.reshape(num_trees, width), lengths, inner_counts + 1)


def _by_depth(level: np.ndarray) -> np.ndarray:
    """Return the order by depth, and within a depth by place in the text; small integer types are sorted faster."""
    kind = np.uint8 if level.max() < 256 else np.uint16 if level.max() < 65536 else np.int32
    return np.argsort(level.astype(kind), kind="stable")


def _nodes(tokens: Tokens) -> _Nodes:
    token = np.flatnonzero((tokens.code == OPEN) | (tokens.code == COMMA))
    inner = tokens.code[token + 1] == OPEN
    return _Nodes(token, inner, token[~inner])


def _leaf_numbers(tokens: Tokens, nodes: _Nodes, taxa: tuple[str, ...], table: LabelTable) -> np.ndarray:
    leaf, n = nodes.leaf, len(taxa)
    number = table.find(tokens.body, tokens.at[leaf] + 1, tokens.at[leaf + 1])
    if (number < 0).any():
        token = int(leaf[np.argmax(number < 0)])
        raise Problem(
            f"unknown taxon {table.name(tokens.label(token))!r}: all trees must have the same {n} taxa",
            tokens.place(token),
            tokens.tree(token),
        )
    tree = np.repeat(np.arange(len(tokens.ends)), np.diff(np.searchsorted(leaf, tokens.ends), prepend=0))
    seen = np.bincount(tree * n + number, minlength=len(tokens.ends) * n).reshape(-1, n)
    if (seen == 1).all():
        return number
    at = int(np.argmax((seen != 1).any(-1)))
    twice = seen[at] > 1
    end = tokens.place(int(tokens.ends[at]))
    if twice.any():
        raise Problem(f"taxon {taxa[int(np.argmax(twice))]!r} comes twice", end, at)
    missing = taxa[int(np.argmax(seen[at] == 0))]
    raise Problem(f"taxon {missing!r} is missing: all trees must have the same {n} taxa", end, at)


def _check_binary(
    tokens: Tokens, nodes: _Nodes, level: np.ndarray, rest: np.ndarray, inner_counts: np.ndarray, n: int
) -> None:
    """Refuse nodes that do not have two children; the root may have three."""
    after = tokens.code[nodes.token[rest]]
    root_ok = (inner_counts == n - 2) | (inner_counts == n - 3)
    pairs = len(after) % 2 == 0 and bool((after[0::2] == OPEN).all() and (after[1::2] == COMMA).all())
    if pairs and root_ok.all():
        return
    # Child by child, within the tree and the depth: opened by a parenthesis, then one comma.
    tree = np.searchsorted(tokens.ends, nodes.token)
    group = tree * (int(level.max()) + 1) + level
    order = np.argsort(group, kind="stable")
    group = group[order]
    place = np.arange(len(order)) - np.searchsorted(group, group)
    opened = tokens.code[nodes.token[order]] == OPEN
    wrong = np.zeros(len(tokens.ends), bool)
    inside = level[order] > 1
    np.logical_or.at(wrong, tree[order][inside], opened[inside] != (place[inside] % 2 == 0))
    at = int(np.argmax(wrong | ~root_ok))
    what = "a node has one subtree; take its parentheses out"
    if multifurcating(tokens, np.full(len(tokens.ends), 3))[at]:
        what = (
            "a node has three or more subtrees (more than three at the root); resolve multifurcations at random with "
            "polytomies='random' or in all ways with polytomies='all', or leave such trees out with polytomies='skip'"
        )
    raise Problem(
        f"not a binary tree: {what}",
        tokens.place(int(tokens.ends[at])),
        at,
    )


def _lengths(tokens: Tokens, nodes: _Nodes, flat: np.ndarray, inner_order: np.ndarray, size: int) -> np.ndarray:
    """Return the numbers after colons, each at the place of its node; those of roots are left out."""
    code = tokens.code
    colon = code == COLON
    values = _numbers(tokens, np.flatnonzero(colon))
    ordinal = np.cumsum(colon) - 1
    lengths = np.full(size, np.nan)
    close = np.flatnonzero(code == CLOSE)
    level = tokens.depth[close] + 1
    # without the roots; at one depth, the k-th node to close is the k-th to open
    close = close[_by_depth(level)][len(tokens.ends) :]
    for token, node in ((nodes.leaf, flat[~nodes.inner]), (close, flat[inner_order])):
        has = colon[token + 1]
        lengths[node[has]] = values[ordinal[token[has] + 1]]
    return lengths


def _numbers(tokens: Tokens, colons: np.ndarray) -> np.ndarray:
    starts, stops = tokens.at[colons] + 1, tokens.at[colons + 1]
    if len(colons) >= _MANY and use_kernels():
        from pyro_ext.phylo._number_kernel import read_numbers

        values, undecided = read_numbers(tokens.body, starts, stops)
        left = np.flatnonzero(undecided)
        texts = [tokens.body[starts[k] : stops[k]].tobytes().strip(b" ") for k in left]
        if all(_DECIMAL.fullmatch(text) for text in texts):
            values[left] = [float(text) for text in texts]
            if np.isfinite(values).all():
                return values
    step = np.zeros(len(tokens.body) + 1, np.int8)
    step[starts] += 1
    step[stops + 1] -= 1  # one more than the number: the token after it becomes a space
    inside = np.cumsum(step[:-1], dtype=np.int8).view(bool)
    text = tokens.body.copy()
    text[stops] = ord(" ")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = np.fromstring(text[inside].tobytes(), sep=" ")
    except (DeprecationWarning, ValueError):
        values = np.empty(0)
    if len(values) == len(colons) and np.isfinite(values).all():
        return values
    colon = int(next((colon for colon in colons if not _is_number(tokens.label(colon))), colons[0]))
    raise Problem(f"branch length {tokens.label(colon)!r} is no finite number", tokens.place(colon), tokens.tree(colon))


def _is_number(text: str) -> bool:
    try:
        return text.isascii() and "_" not in text and bool(np.isfinite(float(text)))
    except ValueError:
        return False
