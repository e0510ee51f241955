"""The distinct subsplits of many trees, as exact sets of taxa."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.bits import complements, leaf_words
from pyro_ext.ops.subsplits.keys import clade_codes, subsplit_keys
from pyro_ext.ops.subsplits.relations import Relations
from pyro_ext.ops.subsplits.rootings import subsplits_of
from pyro_ext.ops.subsplits.trees import node_sums

__all__ = ["CladeSplits", "CodeCollisionError", "check_splits", "collect_splits"]

_ENTRIES = 1 << 21  # subsplits and words of clades held at a time
_ATTEMPTS = 5


class CodeCollisionError(RuntimeError):
    """Two different clades or subsplits have the same code; other codes must be drawn."""


class CladeSplits(NamedTuple):
    """Distinct clades and the ways in which they are split.

    Attributes:
        words: the clades' bits, ``(C, words)``.
        splits: for each split, the positions of the sister clade (-1 for none), of the clade that is split, and of its
            two parts, ``(M, 4)``.
    """

    words: Tensor
    splits: Tensor


def collect_splits(parents: Tensor, num_taxa: int, kind: str) -> CladeSplits:
    """Collect the distinct subsplits of trees.

    Args:
        parents: parent vectors, int64 ``(T, N)``.
        num_taxa: the number n of taxa.
        kind: "rooted", "unrooted" (all rootings at once), or "clade" (splits without regard to sisters).

    Raises:
        CodeCollisionError: if random 64-bit codes collide five times in a row, which practically never happens.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _collect(parents, clade_codes(num_taxa, attempt, parents.device), kind)
        except CodeCollisionError:
            if attempt + 1 == _ATTEMPTS:
                raise
    raise AssertionError


def check_splits(clade_splits: CladeSplits, num_taxa: int, sisters: bool) -> None:
    """Check clades and splits that were read from a file.

    Args:
        clade_splits: the clades and their splits.
        num_taxa: the number n of taxa.
        sisters: whether every split, other than those of the clade of all taxa, names a sister clade.

    Raises:
        ValueError: if a clade is no set of taxa or there twice, or a split does not divide its clade in two, or its
            sister is wrong.
    """
    words, splits = clade_splits
    all_taxa = leaf_words(num_taxa, words.device).sum(0)
    if words.dim() != 2 or words.shape[1:] != all_taxa.shape or bool(((words & ~all_taxa) != 0).any()):
        raise ValueError(f"clades of shape {tuple(words.shape)} are no sets of {num_taxa} taxa")
    if len(words.unique(dim=0)) < len(words) or bool((words == 0).all(-1).any()):
        raise ValueError("a clade is empty, or there twice")
    if splits.dim() != 2 or splits.shape[1] != 4 or not len(splits):
        raise ValueError(f"splits have shape {tuple(splits.shape)}: they must be (M, 4), M at least 1")
    if int(splits.max()) >= len(words) or int(splits[:, 0].min()) < -1 or int(splits[:, 1:].min()) < 0:
        raise ValueError(f"splits of shape {tuple(splits.shape)} do not refer to the {len(words)} clades")
    sister, focal, first, second = (words[column] for column in splits.unbind(-1))
    alone = splits[:, 0] < 0
    parts = ((first & second) == 0).all(-1) & ((first | second) == focal).all(-1)
    beside = ((sister & focal) == 0).all(-1) & sisters
    # the clade of all taxa has no sister; if sisters are told apart, every other clade has one
    right = parts & torch.where(alone, (focal == all_taxa).all(-1) | (not sisters), beside)
    if not bool(right.all()):
        raise ValueError(f"splits[{int((~right).nonzero()[0, 0])}] does not part its clade in two, beside its sister")


def _collect(parents: Tensor, codes: Tensor, kind: str) -> CladeSplits:
    words = leaf_words(len(codes), parents.device)
    clades, splits = _Distinct(), _Distinct()
    step = max(1, _ENTRIES // (parents.shape[1] * (5 + 2 * words.shape[1])))
    for chunk in parents.split(step):
        subsplits, relations = subsplits_of(chunk, codes, kind)
        parts = torch.stack(subsplits[:3], -1)[subsplits.used]
        splits.add(subsplit_keys(*parts.unbind(-1)), parts)
        clades.add(*_clades(codes, words, relations, both_sides=kind == "unrooted"))
    code, bits = clades.rows()
    _, parts = splits.rows()
    return CladeSplits(bits, _located(code, parts))


def _clades(codes: Tensor, words: Tensor, relations: Relations, both_sides: bool) -> tuple[Tensor, Tensor]:
    """Return codes and words of the clades below all nodes; with ``both_sides`` also of their complements."""
    below = node_sums(codes, relations).reshape(-1)
    bits = torch.stack([node_sums(column, relations).reshape(-1) for column in words.unbind(-1)], -1)
    if not both_sides:
        return below, bits
    code = torch.cat([below, codes.sum() - below, codes.sum().unsqueeze(0)])
    return code, torch.cat([bits, complements(bits, len(codes)), words.sum(0, keepdim=True)])


def _located(code: Tensor, parts: Tensor) -> Tensor:
    """Replace codes of sister, clade and child by the clades' positions, and add the other child."""
    sister, focal, child = parts.unbind(-1)
    wanted = torch.stack([sister, focal, child, focal - child], -1)
    place = torch.searchsorted(code, wanted).clamp_max(len(code) - 1)
    none = torch.zeros_like(wanted, dtype=torch.bool)
    none[:, 0] = sister == 0
    if bool((code == 0).any()) or not bool(((code[place] == wanted) | none).all()):
        raise CodeCollisionError("the code of a clade is zero, or not that of its parts")
    return place.masked_fill(none, -1)


class _Distinct:
    """Distinct rows, told apart by their keys; rows with the same key must be equal."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._settled = 0
        self._pending = 0

    def add(self, keys: Tensor, rows: Tensor) -> None:
        keys, rows = _distinct(keys, rows)
        self._keys.append(keys)
        self._rows.append(rows)
        self._pending += len(keys)
        if self._pending > max(self._settled, _ENTRIES):
            self._settle()

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return the keys in increasing order, and their rows."""
        self._settle()
        return self._keys[0], self._rows[0]

    def _settle(self) -> None:
        keys, rows = _distinct(torch.cat(self._keys), torch.cat(self._rows))
        self._keys, self._rows = [keys], [rows]
        self._settled, self._pending = len(keys), 0


def _distinct(keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    keys, order = keys.sort()
    begins = torch.ones_like(keys, dtype=torch.bool)
    begins[1:] = keys[1:] != keys[:-1]
    group = begins.cumsum(0) - 1
    rows = rows[order]
    chosen = rows[begins]
    if not torch.equal(chosen[group], rows):
        raise CodeCollisionError("two different rows have one key")
    return keys[begins], chosen
