"""Reference samples of trees: several files that count alike, as one set of distinct trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pyro_ext.phylo.reading import read_trees
from pyro_ext.phylo.trees import TreeSet

__all__ = ["reference_sample"]


def reference_sample(
    *paths: str | Path,
    taxa: Sequence[str] | None = None,
    rooted: bool | None = None,
    counts: int | None = None,
    progress: bool | None = None,
) -> TreeSet:
    """Read files of equal weight as one sample of distinct trees; the weights of a file may not sum to exactly 1.

    Args:
        *paths: the files.
        taxa: the taxa that they must have; by default those of the first tree.
        rooted: whether roots count; by default as the files say.
        counts: the size of each file's sample: weights are rounded to multiples of its inverse; not if None.
        progress: whether to show a progress bar; by default for long files on a terminal.

    Raises:
        ValueError: if ``counts`` is not positive, or a file is wrong.
        OSError: if a file cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".nwk") as file:
        ...     _ = file.write("(a,b,(c,d)); (a,c,(b,d)); (a,b,(d,c));")
        ...     file.flush()
        ...     reference_sample(file.name).weights
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """
    if counts is not None and counts < 1:
        raise ValueError(f"counts must be at least 1, got {counts}")
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
