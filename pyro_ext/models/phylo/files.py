"""What a phylogeny is built from, in files: the support of its topologies, and a sample to hold it against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from pyro_ext.phylo import Alignment, SubsplitSupport, TreeSet, read_trees, reference_sample

__all__ = ["read_golden", "read_support"]


def read_support(paths: Sequence[str | Path], alignment: Alignment, unroot: bool = False) -> SubsplitSupport:
    """Collect the subsplits of the unrooted trees in files.

    Args:
        paths: files of trees in Newick or NEXUS, of subsplits or networks (``.npz``), or of several of these kinds.
        alignment: whose taxa they must have.
        unroot: whether to forget the roots of rooted trees.

    Raises:
        ValueError: if there are no files, one does not exist or is wrong, its trees are rooted, or it has other taxa.
    """
    _check_files("trees", paths)
    stored = [path for path in paths if Path(path).suffix == ".npz"]
    supports = [SubsplitSupport.load(path) for path in stored]
    for path, support in zip(stored, supports, strict=True):
        _check_kind("trees", path, support.taxa, support.rooted, alignment)
        if not support.sisters:
            raise ValueError(f"trees: {str(path)!r} holds splits of clades, not subsplits; name a network or its trees")
    written = [path for path in paths if path not in stored]
    if written:
        trees = read_trees(*written, rooted=False if unroot else None, branch_lengths=False)
        _check_kind("trees", written[0], trees.taxa, trees.rooted, alignment)
        supports.append(SubsplitSupport.from_trees(trees))
    return reduce(SubsplitSupport.union, supports)


def read_golden(paths: Sequence[str | Path], alignment: Alignment, unroot: bool = False) -> TreeSet:
    """Read a reference sample of unrooted trees from files of equal weight.

    Args:
        paths: files of trees in Newick or NEXUS.
        alignment: whose taxa they must have.
        unroot: whether to forget the roots of rooted trees.

    Raises:
        ValueError: as :func:`read_support`.
    """
    _check_files("golden", paths)
    trees = reference_sample(*paths, rooted=False if unroot else None)
    _check_kind("golden", paths[0], trees.taxa, trees.rooted, alignment)
    return trees


def _check_files(name: str, paths: Sequence[str | Path]) -> None:
    if isinstance(paths, str) or not paths:
        raise ValueError(f"{name} must be a list of one or more files of trees, got {paths!r}")
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"{name}: there is no file {str(path)!r}")


def _check_kind(name: str, path: str | Path, taxa: Sequence[str], rooted: bool, alignment: Alignment) -> None:
    if rooted:
        raise ValueError(
            f"{name}: the trees in {str(path)!r} are rooted, those of the model are not; forget the roots with "
            "unroot=True (--model.unroot true)"
        )
    different = sorted({*taxa} ^ {*alignment.taxa})
    if different:
        raise ValueError(
            f"{name}: {str(path)!r} and the alignment must have the same taxa; only one of them has "
            f"{', '.join(different[:5])}"
        )
