"""Aligned DNA sequences of one's own, to fit models of phylogenies to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pyro_ext.datasets.base import IndexedDataset, Splits
from pyro_ext.datasets.locate import MissingDataError
from pyro_ext.phylo import Alignment, read_alignment

__all__ = ["AlignedSequences", "alignment"]


@dataclass(kw_only=True)
class AlignedSequences(Splits):
    """An alignment, which as a whole is one data point: its sites hang together through the tree.

    Models take the sequences from here. ``train`` and ``valid`` hold one empty row each, so that a step is a step on
    the whole alignment.

    Args:
        alignment: the sequences.
    """

    alignment: Alignment


def alignment(path: str, steps_per_epoch: int = 1000) -> AlignedSequences:
    r"""Read an alignment.

    Args:
        path: a file in FASTA, PHYLIP or NEXUS, plain or compressed with gzip.
        steps_per_epoch: how many steps make an epoch, after which there are metrics and a checkpoint.

    Raises:
        ValueError: if there is no such file, it is no alignment, or ``steps_per_epoch`` is not a positive integer.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w") as file:
        ...     _ = file.write(">mars\nACGT\n>saturn\nACGA\n>venus\nACGA\n")
        ...     file.flush()
        ...     data = alignment(file.name, steps_per_epoch=100)
        >>> data.alignment, len(data.train), data.passes
        (Alignment(3 taxa, 4 sites, 4 patterns: mars, saturn, venus), 1, 100)
    """
    if isinstance(steps_per_epoch, bool) or not isinstance(steps_per_epoch, int) or steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch must be an integer of at least 1, got {steps_per_epoch!r}")
    if not Path(path).is_file():
        raise MissingDataError(f"path: there is no file {str(path)!r}; name an alignment in FASTA, PHYLIP or NEXUS")
    sequences = read_alignment(path)
    train, valid = (IndexedDataset(torch.zeros(1, 0)) for _ in range(2))
    return AlignedSequences(Path(path).name, train, valid, passes=steps_per_epoch, alignment=sequences)
