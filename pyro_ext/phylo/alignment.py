"""Aligned DNA sequences as site patterns, the form in which likelihoods use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["STATES", "Alignment"]

STATES = "ACGT"
"""The order of the states in the last dim of :attr:`Alignment.patterns`."""

_CODES = {
    **{"A": "A", "C": "C", "G": "G", "T": "T", "U": "T"},
    **{"R": "AG", "Y": "CT", "M": "AC", "K": "GT", "S": "CG", "W": "AT"},
    **{"H": "ACT", "B": "CGT", "V": "ACG", "D": "AGT"},
    **dict.fromkeys("NX?-", "ACGT"),
}
"""The states that each IUPAC code may stand for; a gap may stand for any state."""

BITS = {code: sum(1 << STATES.index(state) for state in states) for code, states in _CODES.items()}
"""The states of each IUPAC code, one bit for each of the four."""

_TABLE = np.zeros(128, np.uint8)
for _code, _states in BITS.items():
    _TABLE[[ord(_code), ord(_code.lower())]] = _states


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    r"""The distinct columns of aligned sequences.

    Column :math:`s` has state likelihoods :math:`L_{is}(x) \in \{0, 1\}`: whether taxon ``i`` may have state ``x``
    there. An ambiguity code allows several states, a gap all.

    Args:
        taxa: the sorted names of the n taxa.
        patterns: the state likelihoods of the S distinct columns, ``(n, S, 4)``, states in the order A, C, G, T.
        weights: the number of columns that have each pattern, ``(S,)``.

    Raises:
        ValueError: if the shapes do not fit, or the names are not sorted or not distinct.

    Example:
        >>> alignment = Alignment.from_sequences({"b": "ACAA", "a": "GC-G"})
        >>> alignment
        Alignment(2 taxa, 4 sites, 3 patterns: a, b)
        >>> alignment.weights
        tensor([2., 1., 1.], dtype=torch.float64)
        >>> alignment.patterns[0]
        tensor([[0., 0., 1., 0.],
                [0., 1., 0., 0.],
                [1., 1., 1., 1.]], dtype=torch.float64)
    """

    taxa: tuple[str, ...]
    patterns: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        if list(self.taxa) != sorted(set(self.taxa)):
            raise ValueError("taxa must be sorted and distinct; Alignment.from_sequences takes them in any order")
        n, sites = len(self.taxa), self.weights.numel()
        if self.patterns.shape != (n, sites, 4) or self.weights.dim() != 1:
            raise ValueError(
                f"patterns must be ({n}, {sites}, 4) for {n} taxa and weights ({sites},), "
                f"got {tuple(self.patterns.shape)} and {tuple(self.weights.shape)}"
            )

    @classmethod
    def from_sequences(cls, sequences: Mapping[str, str], *, compress: bool = True) -> Alignment:
        """Make an alignment of DNA sequences.

        Args:
            sequences: a mapping from taxa to their sequences: letters of the IUPAC code, U for T, and ``-``, ``?``,
                ``N`` or ``X`` for unknown states.
            compress: whether equal columns are merged into one pattern, in the order in which they first appear.

        Returns:
            An alignment in float64.

        Raises:
            ValueError: if there are no sequences or no columns, the lengths differ, or a character is unknown.

        Example:
            >>> Alignment.from_sequences({"a": "AAAA", "b": "AAAA"}, compress=False)
            Alignment(2 taxa, 4 sites, 4 patterns: a, b)
        """
        columns = _columns(sequences)
        if compress:
            _, first, group = np.unique(columns, axis=1, return_index=True, return_inverse=True)
            order = np.argsort(first)
            counts = np.bincount(group.reshape(-1))[order]
            columns = columns[:, first[order]]
        else:
            counts = np.ones(columns.shape[1], np.int64)
        allowed = np.ascontiguousarray(columns[:, None] >> np.arange(4, dtype=np.uint8)[:, None] & 1)
        patterns = torch.from_numpy(allowed).double().mT  # sites lie side by side in memory, as likelihoods read them
        return cls(tuple(sorted(sequences)), patterns, torch.from_numpy(counts).double())

    @property
    def num_taxa(self) -> int:
        """The number of taxa."""
        return len(self.taxa)

    @property
    def num_patterns(self) -> int:
        """The number of patterns."""
        return self.weights.numel()

    @property
    def num_sites(self) -> int:
        """The number of columns."""
        return round(float(self.weights.sum()))

    def frequencies(self) -> Tensor:
        """Return the frequencies of the four states, ``(4,)``.

        An ambiguity code counts for its states in equal parts, a gap does not count.

        Raises:
            ValueError: if the alignment has nothing but gaps.

        Example:
            >>> Alignment.from_sequences({"a": "AAC-", "b": "AARG"}).frequencies()
            tensor([0.6429, 0.1429, 0.2143, 0.0000], dtype=torch.float64)
        """
        allowed = self.patterns.sum(-1, keepdim=True)
        shares = torch.where(allowed < 4, self.patterns / allowed, 0) * self.weights.unsqueeze(-1)
        counts = shares.sum((0, 1))
        if not counts.any():
            raise ValueError("the alignment has nothing but gaps, which have no frequencies")
        return counts / counts.sum()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Alignment:
        """Return the alignment on another device or in another dtype."""
        return Alignment(self.taxa, *(own.to(device=device, dtype=dtype) for own in (self.patterns, self.weights)))

    def __repr__(self) -> str:
        names = ", ".join(self.taxa[:4]) + (", ..." if len(self.taxa) > 4 else "")
        return f"Alignment({self.num_taxa} taxa, {self.num_sites:,} sites, {self.num_patterns:,} patterns: {names})"


def _columns(sequences: Mapping[str, str]) -> np.ndarray:
    """Return each character's states as bits, ``(n, sites)``, taxa sorted."""
    if not sequences:
        raise ValueError("there are no sequences")
    reference = next(iter(sequences))
    length = len(sequences[reference])
    if not length:
        raise ValueError(f"taxon {reference!r} has an empty sequence")
    rows = []
    for taxon in sorted(sequences):
        text = sequences[taxon]
        if len(text) != length:
            raise ValueError(
                f"taxon {taxon!r} has {len(text)} characters but {reference!r} has {length}: sequences must be aligned"
            )
        row = state_bits(text)
        if not row.all():
            column = int(np.argmax(row == 0))
            raise ValueError(
                f"taxon {taxon!r} has {text[column]!r} in column {column + 1}, which is no nucleotide; "
                f"expected one of {''.join(BITS)}"
            )
        rows.append(row)
    return np.stack(rows)


def state_bits(text: str) -> np.ndarray:
    """Return the states of each character as bits, 0 where it is no nucleotide."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return np.where(codes < len(_TABLE), _TABLE[np.minimum(codes, len(_TABLE) - 1)], np.uint8(0))
