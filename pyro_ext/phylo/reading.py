"""Reading trees from files: Newick, NEXUS, MrBayes ``.t`` and ``.trprobs``, BEAST and RevBayes ``.trees``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
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
        polytomies: what becomes of trees with multifurcations: ``"refuse"``; ``"random"``, resolved in one of all ways
            of equal probability; ``"zero_length"``, in the same way always, subtrees joining one after the other;
            ``"all"``, in all ways, which share the weight of the tree equally; or ``"skip"``, to leave such trees out.
            New branches have length 0. A warning is logged of how many there are.
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
    return _read(paths, options, burnin, thin, allow_truncated, progress)[0]


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
        polytomies: what becomes of trees with multifurcations, as for :func:`read_trees`.
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
    for _, sets, _ in _files(paths, options, allow_truncated, progress):
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
        polytomies: what becomes of trees with multifurcations, as for :func:`read_trees`.
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
        options = TreeOptions(taxa, rooted, False, weights, polytomies, seed + number)
        trees, has_weights = _read([path], options, burnin, thin, allow_truncated, progress)
        own = torch.ones(len(trees)).double() if trees.weights is None else trees.weights
        own = own if has_weights else own / own.sum()
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
        polytomies: what becomes of trees with multifurcations, as for :func:`read_trees`.
        seed: the seed of random resolutions.

    Raises:
        ValueError: for the same reasons as :func:`read_trees`; the message names the file ``<text>``.

    Example:
        >>> parse_trees("((a:1,b:2):1,c:3);").branch_lengths
        tensor([[1., 2., 3., 1.]], dtype=torch.float64)
        >>> parse_trees("(a,b,c,d);", polytomies="random").to_newick()
        ['(a,(b,d),c);']
        >>> parse_trees("(a,b,c,d);", polytomies="all").weights
        tensor([0.3333, 0.3333, 0.3333], dtype=torch.float64)
    """
    content = text.encode("utf-8", "surrogatepass").removeprefix(b"\xef\xbb\xbf")
    check_text(content, "<text>", True)
    assembly = Assembly(TreeOptions(taxa, rooted, True, weights, polytomies, seed))
    sets = list(file_trees("<text>", iter([content]), assembly, False))
    return sets[0].concatenate(*sets[1:])


def _read(
    paths: Sequence[str | Path],
    options: TreeOptions,
    burnin: float,
    thin: int,
    allow_truncated: bool,
    progress: bool | None,
) -> tuple[TreeSet, bool]:
    """Return all trees of some files, and whether they have weights of their own."""
    _check_thinning(burnin, thin)
    sets: list[TreeSet] = []
    has_weights = False
    for path, parts, assembly in _files(paths, options, allow_truncated, progress):
        own = [*parts]
        has_weights = bool(assembly.has_weights)
        if burnin == 0 and thin == 1:
            sets += own
            continue
        ways = np.concatenate(assembly.num_ways) if options.polytomies == "all" else None
        sets.append(_thinned(path, own[0].concatenate(*own[1:]), burnin, thin, ways))
    return sets[0].concatenate(*sets[1:]), has_weights


def _files(
    paths: Sequence[str | Path], options: TreeOptions, allow_truncated: bool, progress: bool | None
) -> Iterator[tuple[str, Iterator[TreeSet], Assembly]]:
    """Yield the name of each file, its trees, and what assembles them."""
    if not paths:
        raise ValueError("paths is empty: name at least one file of trees")
    files = [Path(path) for path in paths]
    assembly = Assembly(options)
    total = sum(path.stat().st_size for path in files)
    shown = sys.stderr.isatty() and total >= _LONG if progress is None else progress
    with tqdm(total=total, unit="B", unit_scale=True, desc="trees", disable=not shown) as bar:
        for path in files:
            parts = pieces(path, _CHUNK_BYTES, bar.update)
            yield str(path), file_trees(str(path), parts, assembly, allow_truncated), assembly


def _check_thinning(burnin: float, thin: int) -> None:
    is_share = isinstance(burnin, float) and 0 <= burnin < 1
    if not is_share and (isinstance(burnin, bool) or not isinstance(burnin, int) or burnin < 0):
        raise ValueError(f"burnin must be a number of trees of at least 0, or a share below 1 as 0.25, got {burnin!r}")
    positive_int("thin", thin)


def _thinned(path: str, trees: TreeSet, burnin: float, thin: int, ways: np.ndarray | None) -> TreeSet:
    """Return the trees of a file that are left behind the burn-in, every ``thin``-th of them.

    Args:
        path: the name of the file, for errors.
        trees: its trees.
        burnin: what to leave out, a number of trees or a share of them.
        thin: which of the others to keep.
        ways: how many trees each tree in the file has become; None if each is one.
    """
    origin = torch.arange(len(trees))
    if ways is not None:
        origin = torch.arange(len(ways)).repeat_interleave(torch.from_numpy(ways))
    number = len(trees) if ways is None else len(ways)
    if trees.weights is not None:
        whole = trees.weights.new_zeros(number).index_add(0, origin, trees.weights)
        if not torch.allclose(whole, whole[0], rtol=1e-12, atol=0):
            raise ValueError(
                f"{path}: the trees have different weights, so they are a summary and no sample in its order, of which "
                f"burnin={burnin} and thin={thin} could take a part: leave these out, or pass weights=False"
            )
    first = math.floor(burnin * number) if isinstance(burnin, float) else burnin
    left = trees[(origin >= first) & ((origin - first) % thin == 0)]
    if not len(left):
        raise ValueError(f"{path}: burnin={burnin} leaves none of the {number} trees")
    return left
