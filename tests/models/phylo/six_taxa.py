"""A small alignment that resolves its tree only in part, and files of it."""

from __future__ import annotations

from pathlib import Path

import torch

from pyro_ext.distributions import TreeLikelihood
from pyro_ext.phylo import STATES, TreeSet, all_trees, write_trees

TAXA = ("a", "b", "c", "d", "e", "f")
TREES = all_trees(6)
TRUE = TREES[37]


def sequences(num_sites: int = 60) -> dict[str, str]:
    lengths = torch.full((9,), 0.15, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        sites = TreeLikelihood(TRUE, lengths, weights=torch.ones(num_sites).double()).sample()
    states = sites.argmax(-1).tolist()
    return {taxon: "".join(STATES[state] for state in row) for taxon, row in zip(TAXA, states, strict=True)}


def write_files(folder: Path) -> tuple[str, str]:
    """Write the alignment and all 105 trees; return the paths."""
    fasta, trees = folder / "six.fasta", folder / "six.nwk"
    fasta.write_text("".join(f">{taxon}\n{sequence}\n" for taxon, sequence in sequences().items()))
    write_trees(trees, TreeSet(TAXA, TREES))
    return str(fasta), str(trees)
