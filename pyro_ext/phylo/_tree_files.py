"""The trees of one file, some thousands at a time; errors name file, line and tree."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import numpy as np

from pyro_ext.phylo._assembly import Assembly
from pyro_ext.phylo._lexer import COMMENT, Chunk, Problem
from pyro_ext.phylo._statements import Batch, NewickFile, NexusFile, SamplerLog, is_nexus, tree_file, tree_name
from pyro_ext.phylo.trees import TreeSet

__all__ = ["file_trees"]

_LOG = logging.getLogger(__name__)
_LONGEST = 2**28  # bytes of a statement; in a longer one there is no tree
_NOTHING = re.compile(rb"(?:\s|" + COMMENT + rb")*")


def file_trees(path: str, parts: Iterator[bytes], assembly: Assembly, allow_truncated: bool) -> Iterator[TreeSet]:
    """Yield the trees of a file.

    Args:
        path: the name of the file, for errors.
        parts: its text, piece by piece.
        assembly: what makes sets of trees.
        allow_truncated: whether a block of trees may lack its end.

    Raises:
        ValueError: if something is wrong with the file.
    """
    total = 0.0
    for trees in _sets(path, _split(parts, path), assembly, allow_truncated):
        total += 1.0 if trees.weights is None else float(trees.weights.sum())
        yield trees
    if total == 0:
        raise ValueError(f"{path}: all trees have weight 0; pass weights=False to count each tree once")


def _sets(
    path: str, chunks: Iterator[tuple[Chunk, int, bool]], assembly: Assembly, allow_truncated: bool
) -> Iterator[TreeSet]:
    kind: NewickFile | NexusFile | SamplerLog | None = None
    count, is_empty = 0, True
    assembly.bare_weights, assembly.num_polytomies, assembly.num_ways = [], 0, []
    for chunk, line, is_last in chunks:
        is_empty = is_empty and not chunk.text.strip()
        if kind is None:
            kind, chunk = tree_file(chunk)
        batch = None
        try:
            for batch in kind.batches(chunk):
                trees = assembly.build(chunk, batch)
                if trees is not None:
                    yield trees
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
    if assembly.num_polytomies:
        _tell_of_polytomies(path, assembly, count)


def _tell_of_polytomies(path: str, assembly: Assembly, count: int) -> None:
    number, options = assembly.num_polytomies, assembly.options
    if options.polytomies == "skip" and number == count:
        raise ValueError(f"{path}: all {count} trees have multifurcations; resolve them with polytomies='random'")
    done = {
        "skip": "left out",
        "random": f"resolved at random, with seed {options.seed}",
        "zero_length": "resolved in one way each, by branches of length 0",
        "all": f"resolved in all ways, which makes {sum(int(ways.sum()) for ways in assembly.num_ways)} trees",
    }
    _LOG.warning("%s: %d of %d trees have multifurcations and are %s", path, number, count, done[options.polytomies])


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
            f"weights: leave them out with weights=False, or if they are weights, write them as [&W {weights[0]:g}]"
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
        remedy = "; pass allow_truncated=True to read the trees before it" if count else ""
        problem = (
            f"the file is truncated{remedy}" if count or kind.is_open else "the file is truncated or holds no trees"
        )
        raise Problem(f"what begins with {beginning!r} has no ';' at its end: {problem}", begins)
    if kind.is_open:
        raise Problem(
            "the block of trees has no 'end;': the file is truncated; pass allow_truncated=True to read what is there",
            len(chunk.text.rstrip()),
        )


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
