"""Reading trees from files: Newick, NEXUS, MrBayes ``.t`` and ``.trprobs``, BEAST and RevBayes ``.trees``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from pyro_ext.phylo._assembly import Assembly, TreeOptions
from pyro_ext.phylo._sources import check_text, pieces
from pyro_ext.phylo._tree_files import file_trees
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.utils.checks import optional_positive_int, positive_int

__all__ = ["iter_trees", "parse_trees", "read_trees", "reference_sample"]

_CHUNK_BYTES = 2**21
_LONG = 2**23  # bytes; longer files show a progress bar on a terminal


def read_trees(
    *paths: str | Path,
    taxa: Sequence[str] | None = None,
    rooted: bool | None = None,
    branch_lengths: bool = True,
    weights: bool = True,
    burnin: float = 0,
    thin: int = 1,
    polytomies: str = "refuse",
    seed: int = 0,
    allow_truncated: bool = False,
    progress: bool | None = None,
) -> TreeSet:
    r"""Read all trees of one or several files.

    Newick, NEXUS and the logs of RevBayes are told apart by their content, and so are files compressed with gzip,
    bzip2 or xz. A NEXUS file may have ``translate``, quoted names and comments; numbers of taxa are those of
    TAXLABELS, in the block of taxa that LINK names if there are several. ``[&W p]`` becomes the tree's weight, and so
    does a number before a tree in Newick, unless these numbers rise as iterations do. Underscores in names are kept.
    Names of internal nodes and annotations such as ``[&rate=1]`` are ignored.

    Args:
        *paths: the files; all trees must have the same taxa.
        taxa: the names of the taxa that all trees must have; by default those of the first tree.
        rooted: whether the place of the root is part of the trees. By default ``[&R]`` or ``[&U]`` decide; without
            them, a tree with two subtrees at the top is rooted and one with three is not. With ``rooted=False`` roots
            are removed.
        branch_lengths: whether to read branch lengths, if there are any.
        weights: whether to read weights; without them, every tree counts once.
        burnin: what to leave out at the beginning of each file, a number of trees, or a share below 1.
        thin: which of the trees behind the burn-in to keep, every tree (1), every second (2) and so on.
        polytomies: what becomes of trees with multifurcations: ``"refuse"``; ``"resolve"``, at random, each in one of
            all ways of equal probability, with new branches of length 0; or ``"skip"``, to leave such trees out. A
            warning is logged of how many there are.
        seed: the seed of random resolutions.
        allow_truncated: whether a block of trees may lack its end, as when a sampler is still writing it; the text
            after the last whole tree is then ignored.
        progress: whether to show a progress bar; by default for long files on a terminal.

    Returns:
        The trees in the order of the files, with weights and branch lengths if they have them.

    Raises:
        ValueError: if something is no binary tree over the same taxa, a file is empty or truncated, weights are
            negative or all zero, or ``burnin`` or ``thin`` leave no tree of a file, or trees of different weights,
            which are no sample in its order; the message names file, line and tree.
        OSError: if a file cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".nwk") as file:
        ...     _ = file.write("(a,b,(c,d));\n((a,c),(b,d));")
        ...     file.flush()
        ...     read_trees(file.name, rooted=False).to_newick()
        ...     read_trees(file.name, rooted=False, burnin=0.5).to_newick()
        ['(a,b,(c,d));', '(a,(b,d),c);']
        ['(a,(b,d),c);']
    """
    options = TreeOptions(taxa, rooted, branch_lengths, weights, polytomies, seed)
    _check_thinning(burnin, thin)
    sets: list[TreeSet] = []
    for path, parts in _files(paths, options, allow_truncated, progress):
        own = [*parts]
        sets += own if burnin == 0 and thin == 1 else [_thinned(path, own[0].concatenate(*own[1:]), burnin, thin)]
    return sets[0].concatenate(*sets[1:])


def iter_trees(
    *paths: str | Path,
    taxa: Sequence[str] | None = None,
    rooted: bool | None = None,
    branch_lengths: bool = True,
    weights: bool = True,
    polytomies: str = "refuse",
    seed: int = 0,
    allow_truncated: bool = False,
    progress: bool | None = None,
) -> Iterator[TreeSet]:
    """Read trees some thousands at a time, so that files of any length fit into memory.

    Args:
        *paths: the files; all trees must have the same taxa.
        taxa: the names of the taxa that all trees must have; by default those of the first tree.
        rooted: whether the place of the root is part of the trees; by default decided as by :func:`read_trees`.
        branch_lengths: whether to read branch lengths, if there are any.
        weights: whether to read weights; without them, every tree counts once.
        polytomies: what becomes of trees with multifurcations: ``"refuse"``; ``"resolve"``, at random, each in one of
            all ways of equal probability, with new branches of length 0; or ``"skip"``, to leave such trees out. A
            warning is logged of how many there are.
        seed: the seed of random resolutions.
        allow_truncated: whether a block of trees may lack its end; the text after the last whole tree is then ignored.
        progress: whether to show a progress bar; by default for long files on a terminal.

    Yields:
        Sets of successive trees, over the same taxa and either all rooted or all unrooted.

    Raises:
        ValueError: for the same reasons as :func:`read_trees`, once the wrong part is reached.
        OSError: if a file cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".nwk") as file:
        ...     _ = file.write("(a,b,(c,d)); (a,c,(b,d));")
        ...     file.flush()
        ...     sum(len(trees) for trees in iter_trees(file.name))
        2
    """
    options = TreeOptions(taxa, rooted, branch_lengths, weights, polytomies, seed)
    for _, sets in _files(paths, options, allow_truncated, progress):
        yield from sets


def reference_sample(
    *paths: str | Path,
    taxa: Sequence[str] | None = None,
    rooted: bool | None = None,
    counts: int | None = None,
    weights: bool = True,
    burnin: float = 0,
    thin: int = 1,
    polytomies: str = "refuse",
    seed: int = 0,
    allow_truncated: bool = False,
    progress: bool | None = None,
) -> TreeSet:
    """Read files of equal weight, such as several long MCMC runs, as one sample of distinct trees.

    The weights within a file are taken as they are; they need not sum to exactly 1.

    Args:
        *paths: the files; all trees must have the same taxa.
        taxa: the names of the taxa that all trees must have; by default those of the first tree.
        rooted: whether the place of the root is part of the trees; by default as the files say.
        counts: the number of trees in each file's sample, to whose inverse weights are rounded; None does not round.
        weights: whether to read weights; without them, every tree counts once.
        burnin: what to leave out at the beginning of each file, a number of trees, or a share below 1.
        thin: which of the trees behind the burn-in to keep, every tree (1), every second (2) and so on.
        polytomies: what becomes of trees with multifurcations: ``"refuse"``; ``"resolve"``, at random, each in one of
            all ways of equal probability, with new branches of length 0; or ``"skip"``, to leave such trees out. A
            warning is logged of how many there are.
        seed: the seed of random resolutions.
        allow_truncated: whether a block of trees may lack its end; the text after the last whole tree is then ignored.
        progress: whether to show a progress bar; by default for long files on a terminal.

    Returns:
        The distinct trees with their weights, without branch lengths.

    Raises:
        ValueError: if ``counts`` is no positive integer, or a file is wrong.
        OSError: if a file cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".nwk") as file:
        ...     _ = file.write("(a,b,(c,d)); (a,c,(b,d)); (a,b,(d,c));")
        ...     file.flush()
        ...     reference_sample(file.name).weights
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """
    optional_positive_int("counts", counts)
    parts = []
    for number, path in enumerate(paths):
        trees = read_trees(
            path,
            taxa=taxa,
            rooted=rooted,
            branch_lengths=False,
            weights=weights,
            burnin=burnin,
            thin=thin,
            polytomies=polytomies,
            seed=seed + number,
            allow_truncated=allow_truncated,
            progress=progress,
        )
        own = torch.full((len(trees),), 1 / len(trees)).double() if trees.weights is None else trees.weights
        if counts is not None:
            own = (own * counts).round() / counts
            if not bool(own.any()):
                raise ValueError(f"{path}: counts={counts} rounds all weights to 0: give the size of the file's sample")
        parts.append(replace(trees, weights=own / len(paths), branch_lengths=None))
    if not parts:
        raise ValueError("paths is empty: name at least one file of trees")
    return parts[0].concatenate(*parts[1:]).unique()


def parse_trees(
    text: str,
    *,
    taxa: Sequence[str] | None = None,
    rooted: bool | None = None,
    weights: bool = True,
    polytomies: str = "refuse",
    seed: int = 0,
) -> TreeSet:
    """Read trees from a string, in Newick or NEXUS.

    Args:
        text: the content of a file of trees.
        taxa: the names of the taxa that all trees must have; by default those of the first tree.
        rooted: whether the place of the root is part of the trees; by default decided as by :func:`read_trees`.
        weights: whether to read weights; without them, every tree counts once.
        polytomies: what becomes of trees with multifurcations: ``"refuse"``; ``"resolve"``, at random, each in one of
            all ways of equal probability, with new branches of length 0; or ``"skip"``, to leave such trees out.
        seed: the seed of random resolutions.

    Raises:
        ValueError: for the same reasons as :func:`read_trees`; the message names the file ``<text>``.

    Example:
        >>> parse_trees("((a:1,b:2):1,c:3);").branch_lengths
        tensor([[1., 2., 3., 1.]], dtype=torch.float64)
        >>> parse_trees("(a,b,c,d);", polytomies="resolve").to_newick()
        ['(a,(b,d),c);']
    """
    content = text.encode("utf-8", "surrogatepass").removeprefix(b"\xef\xbb\xbf")
    check_text(content, "<text>", True)
    assembly = Assembly(TreeOptions(taxa, rooted, True, weights, polytomies, seed))
    sets = list(file_trees("<text>", iter([content]), assembly, False))
    return sets[0].concatenate(*sets[1:])


def _files(
    paths: Sequence[str | Path], options: TreeOptions, allow_truncated: bool, progress: bool | None
) -> Iterator[tuple[str, Iterator[TreeSet]]]:
    """Yield the name of each file, and its trees."""
    if not paths:
        raise ValueError("paths is empty: name at least one file of trees")
    files = [Path(path) for path in paths]
    assembly = Assembly(options)
    total = sum(path.stat().st_size for path in files)
    shown = sys.stderr.isatty() and total >= _LONG if progress is None else progress
    with tqdm(total=total, unit="B", unit_scale=True, desc="trees", disable=not shown) as bar:
        for path in files:
            yield str(path), file_trees(str(path), pieces(path, _CHUNK_BYTES, bar.update), assembly, allow_truncated)


def _check_thinning(burnin: float, thin: int) -> None:
    is_share = isinstance(burnin, float) and 0 <= burnin < 1
    if not is_share and (isinstance(burnin, bool) or not isinstance(burnin, int) or burnin < 0):
        raise ValueError(f"burnin must be a number of trees of at least 0, or a share below 1 as 0.25, got {burnin!r}")
    positive_int("thin", thin)


def _thinned(path: str, trees: TreeSet, burnin: float, thin: int) -> TreeSet:
    """Return the trees of a file that are left behind the burn-in, every ``thin``-th of them."""
    if trees.weights is not None and bool((trees.weights != trees.weights[0]).any()):
        raise ValueError(
            f"{path}: the trees have different weights, so they are a summary and no sample in its order, of which "
            f"burnin={burnin} and thin={thin} could take a part: leave these out, or pass weights=False"
        )
    first = math.floor(burnin * len(trees)) if isinstance(burnin, float) else burnin
    left = trees[first::thin]
    if not len(left):
        raise ValueError(f"{path}: burnin={burnin} leaves none of the {len(trees)} trees")
    return left
