"""Trees as lines of Newick, for :class:`.TreeSet` and for files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from pyro_ext.phylo.splits import children

__all__ = ["newick_lines", "quoted"]

_SPECIAL = re.compile(r"[\s()\[\]{}'\":;,=*\\]")


def quoted(name: str) -> str:
    """Return a taxon's name as Newick and NEXUS write it, in quotes where it needs them.

    Raises:
        ValueError: if it is empty or has a line break.
    """
    if not name or "\n" in name or "\r" in name:
        raise ValueError(f"a taxon is named {name!r}, which no tree file can hold: relabel it")
    return "'" + name.replace("'", "''") + "'" if _SPECIAL.search(name) else name


def newick_lines(labels: Sequence[str], parents: Tensor, lengths: Tensor | None, rooted: bool) -> list[str]:
    """Return one line per canonical tree.

    Args:
        labels: the label of each taxon, in quotes where it needs them.
        parents: canonical trees, ``(T, M)``.
        lengths: the lengths of the edges, ``(T, M - 1)``; None to write none.
        rooted: whether the trees are rooted.
    """
    n = len(labels)
    leaves = list(labels)
    kids = children(parents, rooted).tolist()
    if lengths is None:
        return [_line(leaves, pairs, n, rooted) for pairs in kids]
    rows = lengths.tolist()
    return [_line_with_lengths(leaves, pairs, row, n, rooted) for pairs, row in zip(kids, rows, strict=True)]


def _line(leaves: list[str], pairs: list[list[int]], n: int, rooted: bool) -> str:
    text = [*leaves, *([""] * len(pairs))]
    for node in range(n + len(pairs) - 1, n if not rooted else n - 1, -1):
        first, second = pairs[node - n]
        text[node] = f"({text[first]},{text[second]})"
    if rooted:
        return text[n] + ";"
    return f"({','.join(text[node] for node in _top(pairs))});"


def _line_with_lengths(leaves: list[str], pairs: list[list[int]], row: list[float], n: int, rooted: bool) -> str:
    skipped = n if rooted else 0
    ends = [f":{length!r}" for length in row]
    ends.insert(skipped, "")
    text = [*leaves, *([""] * len(pairs))]
    for node in range(n + len(pairs) - 1, n if not rooted else n - 1, -1):
        first, second = pairs[node - n]
        text[node] = f"({text[first]}{ends[first]},{text[second]}{ends[second]})"
    if rooted:
        return text[n] + ";"
    ends[0] = ends[n] if n > 2 else ":0.0"
    return f"({','.join(text[node] + ends[node] for node in _top(pairs))});"


def _top(pairs: list[list[int]]) -> list[int]:
    """Return the three subtrees at the top of an unrooted tree: taxon 0 and the two children of its neighbour."""
    return [0, *pairs[0]] if pairs else [0, 1]
