"""Aligned DNA sequences from a file, for models of phylogenies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyro_ext.datasets.base import Splits, WholeObject
from pyro_ext.datasets.locate import MissingDataError
from pyro_ext.phylo import Alignment, read_alignment
from pyro_ext.utils.checks import positive_int

__all__ = ["AlignedSequences", "alignment"]


@dataclass(kw_only=True)
class AlignedSequences(Splits):
    """An alignment. It is one data point as a whole, since its sites depend on each other through the tree.

    ``train`` is the alignment as a :class:`~pyro_ext.datasets.WholeObject`, whose parts are its patterns and their
    weights. ``valid`` is the same object: what is evaluated is the posterior given all of the alignment.

    Args:
        alignment: the aligned sequences.
    """

    alignment: Alignment


def alignment(
    path: str, steps_per_epoch: int = 1000, names: Literal["word", "joined", "ten"] = "word"
) -> AlignedSequences:
    r"""Read an alignment.

    Args:
        path: a file in FASTA, PHYLIP, NEXUS, Clustal or Stockholm, plain or compressed with gzip, bzip2 or xz.
        steps_per_epoch: the number of steps that make an epoch, after which there are metrics and a checkpoint.
        names: the form of names: ``"word"`` ends at a blank, ``"joined"`` is the whole line of FASTA with underscores
            for its blanks, ``"ten"`` the first ten characters of a line of PHYLIP.

    Raises:
        ValueError: if there is no such file, it is no alignment, or ``steps_per_epoch`` is not a positive integer.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w") as file:
        ...     _ = file.write(">mars\nACGT\n>saturn\nACGA\n>venus\nACGA\n")
        ...     file.flush()
        ...     data = alignment(file.name, steps_per_epoch=100)
        >>> data.alignment, data.train.steps_per_epoch
        (Alignment(3 taxa, 4 sites, 4 patterns: mars, saturn, venus), 100)
    """
    positive_int("steps_per_epoch", steps_per_epoch)
    if not Path(path).is_file():
        raise MissingDataError(f"path: there is no file {str(path)!r}; name an alignment in FASTA, PHYLIP or NEXUS")
    sequences = read_alignment(path, names=names)
    whole = WholeObject(sequences.patterns, sequences.weights, steps_per_epoch=steps_per_epoch)
    return AlignedSequences(Path(path).name, whole, whole, alignment=sequences)
