"""Index tables of the lattice of subsets of ``k`` elements, level by level."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """The subsets ``A`` of one size, in lexicographic order, and how each grows by one element.

    Attributes:
        member: the elements outside each subset, int64, ``n * (k - size)`` flattened row by row.
        grown: where ``A`` with that element lies in the next level, laid out like ``member``.
        complement: each subset's complement as a bit mask, ``(n,)``.
        shape: ``(n, k - size)``.
    """

    member: Tensor
    grown: Tensor
    complement: Tensor
    shape: tuple[int, int]


@lru_cache(maxsize=256)
def lattice(k: int, device: torch.device) -> tuple[Level, ...]:
    """Return the levels of sizes ``0..k-1`` for ``k`` elements, on ``device``."""
    subsets = [list(combinations(range(k), size)) for size in range(k + 1)]
    with torch.inference_mode(False):  # these outlive the caller's mode
        return tuple(_level(k, subsets[size], subsets[size + 1], device) for size in range(k))


def _level(k: int, here: list[tuple[int, ...]], above: list[tuple[int, ...]], device: torch.device) -> Level:
    place = {subset: i for i, subset in enumerate(above)}
    outside = [[s for s in range(k) if s not in subset] for subset in here]
    grown = [[place[tuple(sorted((*a, s)))] for s in rest] for a, rest in zip(here, outside, strict=True)]
    masks = [sum(1 << s for s in rest) for rest in outside]

    def tensor(rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=device).flatten()

    return Level(tensor(outside), tensor(grown), tensor([masks]), (len(here), k - len(here[0])))


@lru_cache(maxsize=256)
def pair_places(k: int, device: torch.device) -> Tensor:
    """Return where ``{s, t}`` lies among the pairs, ``(k, k)``; the diagonal holds 0 and is to be masked."""
    place = {pair: i for i, pair in enumerate(combinations(range(k), 2))}
    rows = [[place.get((min(s, t), max(s, t)), 0) for t in range(k)] for s in range(k)]
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.int64, device=device)
