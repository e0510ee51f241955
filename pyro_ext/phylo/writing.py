"""Writing trees to files: Newick, NEXUS, and MrBayes's ``.trprobs``; a file is written whole or not at all."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from pyro_ext.phylo._newick_text import newick_lines, quoted
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.utils.checks import one_of
from pyro_ext.utils.files import check_target, replacing

__all__ = ["format_of", "write_trees"]

_FORMATS = {
    **dict.fromkeys((".nwk", ".newick", ".tre", ".tree"), "newick"),
    **dict.fromkeys((".nex", ".nexus", ".nxs", ".trees", ".t"), "nexus"),
    ".trprobs": "trprobs",
}
_STEP = 1000  # trees held as text at a time


def write_trees(path: str | Path, trees: TreeSet, *, format: str | None = None) -> Path:
    """Write trees into a file, compressed with gzip if its name ends in ``.gz``.

    In Newick and NEXUS a weight is written ``[&W w]`` before the tree. ``trprobs`` is NEXUS with the trees sorted by
    weight, each with its probability and the cumulative probability, as MrBayes writes them.

    Args:
        path: the file to write; a file that exists is replaced.
        trees: the trees to write.
        format: the format of the file, ``"newick"``, ``"nexus"`` or ``"trprobs"``; by default by the name's ending:
            Newick for ``.nwk``, ``.newick``, ``.tre`` and ``.tree``; NEXUS for ``.nex``, ``.nexus``, ``.nxs``,
            ``.trees`` and ``.t``; trprobs for ``.trprobs``.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the format is unknown, or a taxon's name cannot be written.

    Example:
        >>> import tempfile
        >>> trees = TreeSet(("a", "b", "c"), torch.tensor([[-1, 3, 3, 0]]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(write_trees(f"{folder}/posterior.nwk", trees).read_text(), end="")
        (a,b,c);
    """
    path = check_target(path)
    kind = format_of(path) if format is None else one_of("format", format, dict.fromkeys(_FORMATS.values()))
    lines = _newick(trees) if kind == "newick" else _nexus(trees, by_weight=kind == "trprobs")
    with replacing(path) as partial, partial.open("wb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                file.writelines(f"{line}\n".encode() for line in lines)
        else:
            raw.writelines(f"{line}\n".encode() for line in lines)
    return path


def format_of(path: Path) -> str:
    """Return the format that the ending of a file's name stands for.

    Raises:
        ValueError: if the ending is none of those known.
    """
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in _FORMATS:
        raise ValueError(
            f"{path}: cannot tell the format from the name; end it in .nwk, .nex or .trprobs, or pass format='newick', "
            "'nexus' or 'trprobs'"
        )
    return _FORMATS[suffix]


def _newick(trees: TreeSet) -> Iterator[str]:
    names = [quoted(name) for name in trees.taxa]
    for part in _parts(trees):
        for line, weight in zip(_lines(part, names), _weights(part), strict=True):
            yield line if weight is None else f"[&W {weight!r}] {line}"


def _nexus(trees: TreeSet, by_weight: bool) -> Iterator[str]:
    names = [quoted(name) for name in trees.taxa]
    labels = [str(k) for k in range(1, len(names) + 1)]
    yield from ("#NEXUS", "", "begin trees;", "   translate")
    for label, name in zip(labels, names, strict=True):
        yield f"   {label:>4} {name}{';' if label == labels[-1] else ','}"
    mark = "[&R]" if trees.rooted else "[&U]"
    probabilities = trees.probabilities()
    if by_weight:
        order = probabilities.argsort(descending=True, stable=True)
        trees, probabilities = trees[order], probabilities[order]
        trees = trees if trees.weights is not None else replace(trees, weights=probabilities, validate=False)
    cumulative = probabilities.cumsum(0).tolist()
    number = 0
    for part in _parts(trees):
        for line, weight in zip(_lines(part, labels), _weights(part), strict=True):
            remark = f" [p = {probabilities[number]:.3f}, P = {cumulative[number]:.3f}]" if by_weight else ""
            number += 1
            yield f"   tree tree_{number}{remark} = {mark} {'' if weight is None else f'[&W {weight!r}] '}{line}"
    yield "end;"


def _parts(trees: TreeSet) -> Iterator[TreeSet]:
    for start in range(0, len(trees), _STEP):
        yield trees[start : start + _STEP]


def _lines(trees: TreeSet, labels: list[str]) -> list[str]:
    return newick_lines(labels, trees.parents, trees.branch_lengths, trees.rooted)


def _weights(trees: TreeSet) -> list[float] | list[None]:
    weights: Tensor | None = trees.weights
    return [None] * len(trees) if weights is None else weights.tolist()
