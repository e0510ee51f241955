"""The citation graphs Cora, Citeseer and Pubmed with the split of Planetoid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_ext.datasets.graph import LabelledGraph, labelled_graph, scaled_features
from pyro_ext.datasets.locate import MissingDataError, find_file, how_to_get
from pyro_ext.datasets.pickled import StoredMatrix, read_pickle
from pyro_ext.ops.graphs import adjacency_matrix
from pyro_ext.ops.sparse import SparseMatrix
from pyro_ext.utils.checks import one_of
from pyro_ext.utils.npz import DamagedArchive, npz_arrays
from pyro_ext.utils.packed import unpacked

__all__ = ["planetoid"]

_FOLDER = "planetoid"
_NAMES = ("cora", "citeseer", "pubmed")
_PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
_SOURCE = "https://github.com/kimiyoung/planetoid, folder data"
_NUM_VALID = 500
_MOST_FEATURES = 2**24
_MOST_INDEX_BYTES = 2**24


def planetoid(
    graph: Literal["cora", "citeseer", "pubmed"] = "cora", normalize_features: bool = True, steps_per_epoch: int = 1
) -> LabelledGraph:
    r"""Load a citation graph: nodes are papers, features the words in them, classes their topics.

    =========  ======  ======  ========  =======  ========================================
    graph      nodes   edges   features  classes  besides
    =========  ======  ======  ========  =======  ========================================
    cora        2,708   5,278     1,433        7
    citeseer    3,327   4,552     3,703        6  124 edges from a node to itself; 48 nodes
                                                  without edges; 15 without words or a class
    pubmed     19,717  44,324       500        3  3 edges from a node to itself
    =========  ======  ======  ========  =======  ========================================

    Training nodes are 20 of each class, then come 500 for validation; 1,000 are for testing. What is looked for in
    ``$PYRO_EXT_DATA/planetoid/`` is a file ``cora.npz`` (``edges`` ``(2, E)``, ``labels``, ``idx_train``, ``idx_val``,
    ``idx_test``, and the features as ``x_data``, ``x_indices``, ``x_indptr``, ``x_shape``), and otherwise the eight
    original files ``ind.cora.x`` to ``ind.cora.test.index``. Those are pickles of Python 2; they are read as data, and
    nothing in them is run.

    Features stay sparse. The 15 papers of Citeseer that its test nodes leave out are nodes whose features are zeros and
    whose label is -1.

    Args:
        graph: which citation graph is loaded, ``cora``, ``citeseer`` or ``pubmed``.
        normalize_features: whether to divide the words of each paper by their number, as the publication does.
        steps_per_epoch: the number of steps that make an epoch, after which there are metrics and a checkpoint; in the
            publication it is one.

    Raises:
        ValueError: if there is no such graph, or a file is damaged; the message names it.
        MissingDataError: if a file is missing.

    References:
        | Revisiting semi-supervised learning with graph embeddings (Yang et al., 2016)
        | https://arxiv.org/abs/1603.08861
        | Semi-supervised classification with graph convolutional networks (Kipf and Welling, 2017), section 5.1
        | https://arxiv.org/abs/1609.02907
    """
    one_of("graph", graph, _NAMES)
    path = find_file(_FOLDER, f"{graph}.npz")
    if path is not None and path.name == f"{graph}.npz":
        arrays, shown = _from_npz(path), str(path)
    else:
        paths = {part: find_file(_FOLDER, f"ind.{graph}.{part}") for part in _PARTS}
        missing = [part for part, found in paths.items() if found is None]
        if missing:
            what = f"{graph}.npz, and of the files of Planetoid ind.{graph}.{missing[0]}, were"
            raise MissingDataError(how_to_get(what, f"them from {_SOURCE},", _FOLDER))
        arrays, shown = _from_pickles({part: found for part, found in paths.items() if found is not None})
    try:
        number = len(arrays["labels"])
        weights = torch.ones(arrays["edges"].shape[1])
        return labelled_graph(
            graph,
            adjacency_matrix(arrays["edges"], number, weights),
            scaled_features(_features(arrays, number), normalize_features),
            arrays["labels"],
            *(arrays[name] for name in ("idx_train", "idx_val", "idx_test")),
            steps_per_epoch=steps_per_epoch,
        )
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error


def _features(arrays: Mapping[str, Tensor], number: int) -> SparseMatrix:
    rows, columns = arrays["x_shape"].tolist()
    if rows != number or not 0 < columns <= _MOST_FEATURES:
        raise ValueError(f"features of shape {rows} x {columns} do not fit {number} nodes; get the file again")
    values = arrays["x_data"].to(torch.float32)
    if not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ValueError("features must be finite and at least 0; get the file again")
    return SparseMatrix.from_csr(arrays["x_indptr"], arrays["x_indices"], values, (rows, columns))


# One archive

_ARRAYS = {
    "edges": 2,
    "labels": 1,
    "idx_train": 1,
    "idx_val": 1,
    "idx_test": 1,
    "x_data": 1,
    "x_indices": 1,
    "x_indptr": 1,
    "x_shape": 1,
}
"""Name of an array -> its number of dims; all hold integers, x_data numbers."""


def _from_npz(path: Path) -> dict[str, Tensor]:
    try:
        arrays = npz_arrays(path)
    except DamagedArchive as error:
        raise ValueError(f"{path}: no graph, or damaged: {error}; get it again") from error
    found = {}
    for name, dims in _ARRAYS.items():
        if name not in arrays:
            raise ValueError(f"{path}: it has no array {name!r}, only {', '.join(sorted(arrays))[:200]}")
        found[name] = _tensor(path, name, arrays[name], dims)
    if len(found["edges"]) != 2 or len(found["x_shape"]) != 2:
        raise ValueError(f"{path}: edges must have two rows and x_shape two numbers; get the file again")
    return found


def _tensor(path: Path, name: str, array: np.ndarray[Any, Any], dims: int) -> Tensor:
    allowed = "iufb" if name == "x_data" else "iu"
    if array.ndim != dims or array.dtype.kind not in allowed or array.dtype.itemsize > 8:
        kind = "numbers" if "f" in allowed else "integers"
        raise ValueError(
            f"{path}: {name} holds {array.dtype} of shape {array.shape}, where {kind} with {dims} dims belong; get the "
            "file again"
        )
    native = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    return torch.from_numpy(np.ascontiguousarray(native))


# Eight pickles


def _from_pickles(paths: Mapping[str, Path]) -> tuple[dict[str, Tensor], str]:
    """Put the parts together as the program of Kipf and Welling does."""
    known, tested = (_matrix(paths[name]) for name in ("allx", "tx"))
    few = _matrix(paths["x"])
    classes = {name: _one_hot_labels(paths[name]) for name in ("y", "ally", "ty")}
    neighbours = _neighbours(paths["graph"])
    test = _test_nodes(paths["test.index"])
    shown = str(paths["allx"]).removesuffix(".gz").removesuffix("allx") + "*"
    for one, other in (("x", few), ("ally", known), ("tx", tested)):
        labels = classes[{"x": "y", "ally": "ally", "tx": "ty"}[one]]
        if len(labels) != other.shape[0]:
            raise ValueError(f"{shown}: {other.shape[0]} rows of features and {len(labels)} of labels do not fit")
    if not len(known.indptr) == known.shape[0] + 1 or known.shape[1] != tested.shape[1]:
        raise ValueError(f"{shown}: allx and tx have {known.shape[1]} and {tested.shape[1]} features, which do not fit")
    number = known.shape[0]
    if len(test) != tested.shape[0] or len(few.indptr) != few.shape[0] + 1 or few.shape[0] + _NUM_VALID > number:
        raise ValueError(
            f"{shown}: {few.shape[0]} nodes to train on, {number} known ones, {tested.shape[0]} rows to test on and "
            f"{len(test)} numbers of nodes do not fit"
        )
    low, high = int(test.min()), int(test.max())
    if low != number or high >= len(neighbours) or len(test.unique()) < len(test):
        raise ValueError(
            f"{shown}: the nodes to test on are {low} to {high}, where {number} to {len(neighbours) - 1} belong, each "
            "once at most"
        )
    arrays = _joined(known, tested, test, high + 1)
    labels = torch.full((high + 1,), -1, dtype=torch.int64)
    labels[:number] = classes["ally"]
    labels[test] = classes["ty"]
    ordered = test.sort().values
    train = torch.arange(few.shape[0])
    valid = torch.arange(_NUM_VALID) + len(train)
    arrays |= {"idx_train": train, "idx_val": valid[labels[valid] >= 0], "idx_test": ordered[labels[ordered] >= 0]}
    return arrays | {"edges": _edges(neighbours, high + 1, shown), "labels": labels}, shown


def _joined(known: StoredMatrix, tested: StoredMatrix, test: Tensor, number: int) -> dict[str, Tensor]:
    """Return the features of all nodes in compressed rows; those of test nodes are given in another order."""
    row_of = torch.full((number,), -1, dtype=torch.int64)
    row_of[: known.shape[0]] = torch.arange(known.shape[0])
    row_of[test] = torch.arange(len(test)) + known.shape[0]
    lengths = torch.from_numpy(np.concatenate([np.diff(part.indptr.astype(np.int64)) for part in (known, tested)]))
    begin = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    wanted = torch.where(row_of >= 0, lengths[row_of], 0)
    starts = torch.cat([wanted.new_zeros(1), wanted.cumsum(0)])
    within = torch.arange(int(starts[-1])) - torch.repeat_interleave(starts[:-1], wanted)
    places = torch.repeat_interleave(begin[row_of.clamp(min=0)], wanted) + within
    data, indices = (
        torch.from_numpy(np.concatenate([getattr(part, name).astype(kind) for part in (known, tested)]))
        for name, kind in (("data", np.float64), ("indices", np.int64))
    )
    shape = torch.tensor([number, known.shape[1]])
    return {"x_data": data[places], "x_indices": indices[places], "x_indptr": starts, "x_shape": shape}


def _matrix(path: Path) -> StoredMatrix:
    stored = read_pickle(path)
    if not isinstance(stored, StoredMatrix):
        raise ValueError(f"{path}: it holds a {type(stored).__name__}, where a sparse matrix belongs")
    for name, kinds in (("data", "iufb"), ("indices", "iu"), ("indptr", "iu")):
        if getattr(stored, name).dtype.kind not in kinds:
            raise ValueError(f"{path}: {name} holds {getattr(stored, name).dtype}; get the file again")
    pointers = stored.indptr.astype(np.int64)
    fits = len(pointers) == stored.shape[0] + 1 and pointers[0] == 0 and bool((np.diff(pointers) >= 0).all())
    if not fits or not pointers[-1] == len(stored.data) == len(stored.indices):
        raise ValueError(f"{path}: rows of the sparse matrix do not fit its {len(stored.data)} values; get it again")
    return stored


def _one_hot_labels(path: Path) -> Tensor:
    """Return the class of each row; -1 for a row of zeros."""
    array = read_pickle(path)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{path}: it holds no table of labels; get it again")
    if not ((array == 0) | (array == 1)).all() or (array.sum(1) > 1).any():
        raise ValueError(f"{path}: rows must have a 1 at the class and zeros elsewhere; get it again")
    return torch.from_numpy(np.where(array.any(1), array.argmax(1), -1).astype(np.int64))


def _neighbours(path: Path) -> dict[int, list[int]]:
    """Return the neighbours of each node."""
    stored = read_pickle(path)
    shared = len({id(value) for value in stored.values()}) < len(stored) if isinstance(stored, dict) else True
    if shared or not stored:
        raise ValueError(f"{path}: it holds no graph, a dict from nodes to lists of neighbours; get it again")
    for node, others in stored.items():
        if type(node) is not int or type(others) is not list or not all(type(other) is int for other in others):
            raise ValueError(f"{path}: nodes and neighbours must be integers; get it again")
    return stored


def _edges(neighbours: Mapping[int, list[int]], number: int, shown: str) -> Tensor:
    most = max(max(neighbours), *(max(others, default=0) for others in neighbours.values()))
    least = min(min(neighbours), *(min(others, default=0) for others in neighbours.values()))
    if most >= number or least < 0:
        raise ValueError(f"{shown}: the graph names node {most if least >= 0 else least}, of 0 to {number - 1}")
    pairs = [(node, other) for node, others in neighbours.items() for other in others]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T


def _test_nodes(path: Path) -> Tensor:
    content = bytearray()
    for piece in unpacked(path, _MOST_INDEX_BYTES):
        content += piece
        if len(content) > _MOST_INDEX_BYTES:
            raise ValueError(f"{path}: more than {_MOST_INDEX_BYTES} bytes, which is no list of nodes")
    words = bytes(content).split()
    if not words or not all(len(word) < 10 and word.isdigit() for word in words):
        raise ValueError(f"{path}: it must hold numbers of nodes, one a line; get it again")
    return torch.tensor([int(word) for word in words])
