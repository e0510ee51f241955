"""Reading trees from files: Newick, NEXUS, MrBayes ``.t`` and ``.trprobs``, BEAST and RevBayes ``.trees``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from pyro_ext.phylo._assembly import Assembly
from pyro_ext.phylo._lexer import COMMENT, Chunk, Problem
from pyro_ext.phylo._sources import check_text, pieces
from pyro_ext.phylo._statements import Batch, NewickFile, NexusFile, SamplerLog, is_nexus, tree_file, tree_name
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.utils.checks import optional_positive_int

__all__ = ["iter_trees", "parse_trees", "read_trees", "reference_sample"]

_CHUNK_BYTES = 2**21
_LONG = 2**23  # bytes; longer files show a progress bar on a terminal
_LONGEST = 2**30  # bytes of a statement; in a longer one there is no tree
_NOTHING = re.compile(rb"(?:\s|" + COMMENT + rb")*")


def read_trees(
    *paths: str | Path,
    taxa: Sequence[str] | None = None,
    rooted: bool | None = None,
    branch_lengths: bool = True,
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
        allow_truncated: whether a block of trees may lack its end, as when a sampler is still writing it; the text
            after the last whole tree is then ignored.
        progress: whether to show a progress bar; by default for long files on a terminal.

    Returns:
        The trees in the order of the files, with weights and branch lengths if they have them.

    Raises:
        ValueError: if something is no binary tree over the same taxa, a file is empty or truncated, or weights are
            negative or all zero; the message names file, line and tree.
        OSError: if a file cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".nwk") as file:
        ...     _ = file.write("(a,b,(c,d));\n((a,c),(b,d));")
        ...     file.flush()
        ...     read_trees(file.name, rooted=False).to_newick()
        ['(a,b,(c,d));', '(a,(b,d),c);']
    """
    sets = list(
        iter_trees(
            *paths,
            taxa=taxa,
            rooted=rooted,
            branch_lengths=branch_lengths,
            allow_truncated=allow_truncated,
            progress=progress,
        )
    )
    return sets[0].concatenate(*sets[1:])


def iter_trees(
    *paths: str | Path,
    taxa: Sequence[str] | None = None,
    rooted: bool | None = None,
    branch_lengths: bool = True,
    allow_truncated: bool = False,
    progress: bool | None = None,
) -> Iterator[TreeSet]:
    """Read trees some thousands at a time, so that files of any length fit into memory.

    Args:
        *paths: the files; all trees must have the same taxa.
        taxa: the names of the taxa that all trees must have; by default those of the first tree.
        rooted: whether the place of the root is part of the trees; by default decided as by :func:`read_trees`.
        branch_lengths: whether to read branch lengths, if there are any.
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
    if not paths:
        raise ValueError("paths is empty: name at least one file of trees")
    files = [Path(path) for path in paths]
    assembly = Assembly(taxa, rooted, branch_lengths)
    total = sum(path.stat().st_size for path in files)
    shown = sys.stderr.isatty() and total >= _LONG if progress is None else progress
    with tqdm(total=total, unit="B", unit_scale=True, desc="trees", disable=not shown) as bar:
        for path in files:
            chunks = _split(pieces(path, _CHUNK_BYTES, bar.update), str(path))
            yield from _with_weight(_sets(str(path), chunks, assembly, allow_truncated), str(path))


def reference_sample(
    *paths: str | Path,
    taxa: Sequence[str] | None = None,
    rooted: bool | None = None,
    counts: int | None = None,
    progress: bool | None = None,
) -> TreeSet:
    """Read files of equal weight, such as several long MCMC runs, as one sample of distinct trees.

    The weights within a file are taken as they are; they need not sum to exactly 1.

    Args:
        *paths: the files; all trees must have the same taxa.
        taxa: the names of the taxa that all trees must have; by default those of the first tree.
        rooted: whether the place of the root is part of the trees; by default as the files say.
        counts: the number of trees in each file's sample, to whose inverse weights are rounded; None does not round.
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
    for path in paths:
        trees = read_trees(path, taxa=taxa, rooted=rooted, branch_lengths=False, progress=progress)
        weights = torch.full((len(trees),), 1 / len(trees)).double() if trees.weights is None else trees.weights
        if counts is not None:
            weights = (weights * counts).round() / counts
            if not bool(weights.any()):
                raise ValueError(f"{path}: counts={counts} rounds all weights to 0: give the size of the file's sample")
        parts.append(replace(trees, weights=weights / len(paths), branch_lengths=None))
    if not parts:
        raise ValueError("paths is empty: name at least one file of trees")
    return parts[0].concatenate(*parts[1:]).unique()


def parse_trees(text: str, *, taxa: Sequence[str] | None = None, rooted: bool | None = None) -> TreeSet:
    """Read trees from a string, in Newick or NEXUS.

    Args:
        text: the content of a file of trees.
        taxa: the names of the taxa that all trees must have; by default those of the first tree.
        rooted: whether the place of the root is part of the trees; by default decided as by :func:`read_trees`.

    Raises:
        ValueError: for the same reasons as :func:`read_trees`; the message names the file ``<text>``.

    Example:
        >>> parse_trees("((a:1,b:2):1,c:3);").branch_lengths
        tensor([[1., 2., 3., 1.]], dtype=torch.float64)
    """
    content = text.encode("utf-8", "surrogatepass").removeprefix(b"\xef\xbb\xbf")
    check_text(content, "<text>", True)
    chunks = _split(iter([content]), "<text>")
    sets = list(_with_weight(_sets("<text>", chunks, Assembly(taxa, rooted, True), False), "<text>"))
    return sets[0].concatenate(*sets[1:])


def _sets(
    path: str, chunks: Iterator[tuple[Chunk, int, bool]], assembly: Assembly, allow_truncated: bool
) -> Iterator[TreeSet]:
    """Yield the trees of a file; errors say where in the file they are."""
    kind: NewickFile | NexusFile | SamplerLog | None = None
    count, is_empty = 0, True
    assembly.bare_weights = []
    for chunk, line, is_last in chunks:
        is_empty = is_empty and not chunk.text.strip()
        if kind is None:
            kind, chunk = tree_file(chunk)
        batch = None
        try:
            for batch in kind.batches(chunk):
                yield assembly.build(chunk, batch)
                count += len(batch.statements)
                batch = None
            if is_last and not allow_truncated:
                _check_rest(chunk, kind, count)
        except Problem as error:
            raise ValueError(_message(path, line, chunk, batch, count, error)) from error
    if is_empty:
        raise ValueError(f"{path}: the file is empty")
    _check_bare_weights(path, assembly.bare_weights)
    if not count:
        raise ValueError(f"{path}: there are no trees in this file; expected Newick, or NEXUS with a block of trees")


def _check_bare_weights(path: str, weights: list[float]) -> None:
    """Refuse numbers before trees that rise, all of them or mostly by the same step, as the iterations of a sampler."""
    numbers = np.array(weights)
    steps = np.diff(numbers)
    if not len(steps) or (numbers != np.round(numbers)).any():
        return
    rising, how_often = np.unique(steps[steps > 0], return_counts=True)
    if len(rising) and ((steps > 0).all() or how_often.max() > len(steps) / 2):
        some = ", ".join(f"{number:g}" for number in weights[:3])
        raise ValueError(
            f"{path}: the numbers before the trees, {some}, ... rise like the iterations of a sampler, which are no "
            f"weights: remove them, or if they are weights, write them as [&W {weights[0]:g}]"
        )


def _message(path: str, line: int, chunk: Chunk, batch: Batch | None, count: int, error: Problem) -> str:
    line += chunk.text.count(b"\n", 0, error.at)
    where = f"{path}, line {line}"
    if error.tree is None or batch is None:
        return f"{where}: {error.message}"
    statement = batch.statements[error.tree]
    text = chunk.text[chunk.starts()[statement] : chunk.ends[statement]]
    name = tree_name(text[: text.find(b"(")])
    return f"{where}, tree {count + error.tree + 1}{f' ({name})' if name else ''}: {error.message}"


def _check_rest(chunk: Chunk, kind: NewickFile | NexusFile | SamplerLog, count: int) -> None:
    """Refuse a truncated file."""
    at = int(chunk.ends[-1]) + 1 if len(chunk.ends) else 0
    rest = chunk.text[at:]
    if not _NOTHING.fullmatch(rest):
        begins = at + len(rest) - len(rest.lstrip())
        beginning = rest.strip()[:30].decode("utf-8", "replace")
        problem = "the file is truncated" if count or kind.is_open else "the file is truncated or holds no trees"
        raise Problem(f"what begins with {beginning!r} has no ';' at its end: {problem}", begins)
    if kind.is_open:
        raise Problem(
            "the block of trees has no 'end;': the file is truncated; pass allow_truncated=True to read what is there",
            len(chunk.text.rstrip()),
        )


def _with_weight(sets: Iterator[TreeSet], path: str) -> Iterator[TreeSet]:
    """Refuse a file whose weights are all zero."""
    total = 0.0
    for trees in sets:
        total += 1.0 if trees.weights is None else float(trees.weights.sum())
        yield trees
    if total == 0:
        raise ValueError(f"{path}: all trees have weight 0")


def _split(parts: Iterator[bytes], path: str) -> Iterator[tuple[Chunk, int, bool]]:
    """Yield chunks of whole statements, the line each begins in, and whether it is the last; that may be incomplete."""
    waiting: list[bytes] = []
    line, size, least = 1, 0, 1
    nexus: bool | None = None
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size > _LONGEST:
            raise ValueError(f"{path}, line {line}: a statement of more than {_LONGEST} bytes has no ';' at its end")
        if size < least or b";" not in part:
            continue
        text = b"".join(waiting)
        nexus = is_nexus(text) if nexus is None else nexus
        chunk = Chunk(text, nexus)
        if not len(chunk.ends):
            waiting, least = [chunk.text], 2 * size  # so that long statements are not scanned too often
            continue
        cut = int(chunk.ends[-1]) + 1
        rest = chunk.text[cut:]
        yield chunk, line, False
        line += chunk.text.count(b"\n", 0, cut)
        waiting, size, least = [rest], len(rest), 1
    text = b"".join(waiting)
    yield Chunk(text, is_nexus(text) if nexus is None else nexus), line, True
