"""Clades as sets of bits in words of 63 bits: exact, unlike codes, which collide with a tiny probability."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clade_sizes", "complements", "leaf_words", "lexicographic_order", "members", "smallest_leaves", "sum_codes"]

_BITS = 63  # of an int64; the sign bit is not used


def leaf_words(num_taxa: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the words of the single taxa, int64 ``(n, ceil(n / 63))``.

    The words of a clade are the sum of those of its taxa.

    >>> leaf_words(3)
    tensor([[1],
            [2],
            [4]])
    """
    taxon = torch.arange(num_taxa, device=device)
    words = torch.zeros(num_taxa, -(-num_taxa // _BITS), dtype=torch.int64, device=device)
    words[taxon, taxon.div(_BITS, rounding_mode="floor")] = torch.ones_like(taxon) << taxon % _BITS
    return words


def complements(words: Tensor, num_taxa: int) -> Tensor:
    """Return the words of the clades of all taxa that are not in the given ones."""
    return leaf_words(num_taxa, words.device).sum(0) - words


def clade_sizes(words: Tensor) -> Tensor:
    """Return the number of taxa in clades ``(C, words)``.

    >>> clade_sizes(torch.tensor([[0b1011], [0]]))
    tensor([3, 0])
    """
    return _count_bits(words).sum(-1)


def smallest_leaves(words: Tensor, num_taxa: int) -> Tensor:
    """Return the first taxon of clades ``(C, words)``; n for an empty one.

    >>> smallest_leaves(torch.tensor([[0b1010], [0]]), 4)
    tensor([1, 4])
    """
    trailing = _count_bits((words & -words) - 1)
    offset = torch.arange(words.shape[-1], device=words.device) * _BITS
    return torch.where(words == 0, num_taxa, trailing + offset).amin(-1)


def members(words: Tensor, num_taxa: int) -> Tensor:
    """Return which taxa are in clades ``(C, words)``, boolean ``(C, n)``."""
    taxon = torch.arange(num_taxa, device=words.device)
    return (words[:, taxon.div(_BITS, rounding_mode="floor")] >> taxon % _BITS) & 1 == 1


def sum_codes(words: Tensor, codes: Tensor) -> Tensor:
    """Sum the codes ``(n,)`` of the taxa in clades ``(C, words)``, modulo 2^64."""
    total = words.new_zeros(len(words))
    for taxon in range(len(codes)):
        total += ((words[:, taxon // _BITS] >> taxon % _BITS) & 1) * codes[taxon]
    return total


def lexicographic_order(columns: Tensor) -> Tensor:
    """Return the order that sorts rows ``(C, m)`` by their first entries, then by the second, and so on."""
    order = torch.arange(len(columns), device=columns.device)
    for column in columns.unbind(-1)[::-1]:
        order = order[column[order].sort(stable=True).indices]
    return order


def _count_bits(words: Tensor) -> Tensor:
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((words * 0x0101010101010101) >> 56) & 0xFF
