"""Clades as 64-bit numbers that add up as sets are united, and a table that looks up subsplits by such numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["KeyTable", "clade_codes", "find_keys", "key_table", "subsplit_keys"]

# A taxon is in the sister, in the clade, in the clade's child or in none. The weights of any two of these cases differ
# by an odd number, or by twice or four times an odd number, so at most two of the 64 bits are lost.
_SISTER, _FOCAL, _CHILD = 0x27D4EB2F165667C5, 0x1B873593CC9E2D51, 0x38B34AE5A1E38B95
_MASK = (1 << 64) - 1
_ROOM = 8  # buckets per key; large tables have fewer
_MOST_BUCKETS = 1 << 24


def clade_codes(num_taxa: int, seed: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Return a random 64-bit number for every taxon, int64 ``(n,)``, always the same for a seed.

    The code of a clade is the sum of its taxa's codes modulo 2^64: that of a disjoint union is the sum of the codes,
    that of a complement the difference
    (Zobrist hashing with addition).

    >>> clade_codes(3).shape, bool((clade_codes(3) == clade_codes(4)[:3]).all())
    (torch.Size([3]), True)
    """
    words = []
    state = (seed + 1) * 0x9E3779B97F4A7C15
    for _ in range(num_taxa):  # splitmix64, so that the codes depend on no library's generator
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        words.append(z ^ (z >> 31))
    signed = [word - (1 << 64) if word >> 63 else word for word in words]
    return torch.tensor(signed, dtype=torch.int64, device=device)


def subsplit_keys(sister: Tensor, focal: Tensor, child: Tensor) -> Tensor:
    """Return one 64-bit number for each subsplit of a clade beside its sister.

    It is linear in the codes of the taxa, whose coefficients differ by role: different subsplits collide with
    probability about 2^-63.

    Args:
        sister: the code of the clade's sister, int64; 0 where the split depends on no sister.
        focal: the code of the clade that is split, of the same shape.
        child: the smaller of the codes of the clade's two parts, of the same shape.

    >>> subsplit_keys(torch.tensor(0), torch.tensor(1), torch.tensor(0)).dtype
    torch.int64
    """
    return sister * _SISTER + focal * _FOCAL + child * _CHILD


class KeyTable(NamedTuple):
    """Keys in increasing order, in buckets of keys with the same leading bits.

    Attributes:
        keys: the sorted keys, ``(M + 1,)``; the last entry is the largest integer, which is no key.
        position: the position of each sorted key among the M keys as given, ``(M + 1,)``; M for the last entry.
        bucket: the first sorted key of each bucket, ``(2^b,)``.
        depth: the largest number of keys in a bucket.
    """

    keys: Tensor
    position: Tensor
    bucket: Tensor
    depth: int


def key_table(keys: Tensor) -> KeyTable:
    """Build the table of distinct keys, int64 ``(M,)``.

    >>> find_keys(key_table(torch.tensor([7, -3])), torch.tensor([-3, 5, 7]))
    tensor([1, 2, 0])
    """
    num = len(keys)
    ordered, position = keys.sort()
    bits = max(1, (min(max(_ROOM * num, 2), max(_MOST_BUCKETS, 2 * num)) - 1).bit_length())
    number = torch.arange(1 << bits, device=keys.device) - (1 << (bits - 1))
    bucket = torch.searchsorted(ordered, number << (64 - bits))
    ends = torch.cat([bucket[1:], bucket.new_tensor([num])])
    last = keys.new_tensor([torch.iinfo(torch.int64).max])
    return KeyTable(
        torch.cat([ordered, last]), torch.cat([position, last.new_tensor([num])]), bucket, int((ends - bucket).max())
    )


def find_keys(table: KeyTable, keys: Tensor) -> Tensor:
    """Return the positions of keys, int64 of any shape: ``0..M-1``, or M where there is no such key."""
    bits = (len(table.bucket) - 1).bit_length()
    wanted = keys.reshape(-1)
    place = table.bucket.index_select(0, (wanted >> (64 - bits)).add_(1 << (bits - 1)))
    for _ in range(table.depth - 1):
        place += table.keys.index_select(0, place) < wanted
    is_key = table.keys.index_select(0, place) == wanted
    position = table.position.index_select(0, place)
    return position.masked_fill_(~is_key, len(table.keys) - 1).reshape(keys.shape)
