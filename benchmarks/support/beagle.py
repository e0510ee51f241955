"""The library BEAGLE through its C interface: log-likelihoods under JC69, and their derivatives in branch lengths.

The release that Debian has (libhmsbeagle1v5, version 3.1) has no pass from the root to the leaves. It is made of the
operations for the other pass, which is right for reversible models: seen from a node, what lies above it is a tree too.

References:
    | BEAGLE 3: improved performance, scaling, and usability for a high-performance computing library for statistical
    | phylogenetics (Ayres et al., 2019), https://doi.org/10.1093/sysbio/syz020
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Beagle", "beagle_version"]

_DOUBLE, _SINGLE, _SSE, _CPU = 1 << 1, 1 << 0, 1 << 11, 1 << 15
_NONE = -1


class _Details(ctypes.Structure):
    _fields_ = (
        ("resource", ctypes.c_int),
        ("resource_name", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("flags", ctypes.c_long),
    )


def _library() -> ctypes.CDLL | None:
    for name in (ctypes.util.find_library("hmsbeagle"), "libhmsbeagle.so.1"):
        try:
            return ctypes.CDLL(name) if name else None
        except OSError:
            continue
    return None


def beagle_version() -> str | None:
    """Return the version of the library, or None if it is not installed."""
    library = _library()
    if library is None:
        return None
    library.beagleGetVersion.restype = ctypes.c_char_p
    return str(library.beagleGetVersion().decode())


class Beagle:
    """An instance for alignments of n taxa and S patterns.

    Args:
        tips: the likelihood vectors of the sequences, shape ``(n, 4, S)``.
        weights: the number of sites of each pattern, shape ``(S,)``.

    Attributes:
        name: the implementation that the library chose.
    """

    def __init__(self, tips: Tensor, weights: Tensor) -> None:
        library = _library()
        assert library is not None
        self._library, (num_taxa, _, num_sites) = library, tips.shape
        self._num_taxa, self._num_edges = num_taxa, 2 * num_taxa - 3
        # Buffers: leaves, what lies below internal nodes, what lies above every node.
        buffers, matrices = 4 * num_taxa, 2 * self._num_edges
        precision, details = _SINGLE if tips.dtype == torch.float32 else _DOUBLE, _Details()
        create = library.beagleCreateInstance
        create.argtypes = [ctypes.c_int] * 9 + [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_long]
        create.argtypes.append(ctypes.c_void_p)
        sizes = (num_taxa, buffers, 0, 4, num_sites, 1, matrices, 1, 0)
        self._instance = create(*sizes, None, 0, _SSE | _CPU | precision, precision, ctypes.byref(details))
        if self._instance < 0:
            raise RuntimeError(f"BEAGLE gave the error {self._instance}")
        self.name = details.name.decode()
        for taxon, partials in enumerate(tips.mT.double().contiguous()):
            self._call("SetTipPartials", taxon, partials.numpy())
        vectors = np.array([[1.0, 2, 0, 0.5], [1, -2, 0.5, 0], [1, 2, 0, -0.5], [1, -2, -0.5, 0]])
        values = np.array([0.0, -4 / 3, -4 / 3, -4 / 3])
        self._call("SetEigenDecomposition", 0, vectors, np.linalg.inv(vectors), values)
        self._call("SetStateFrequencies", 0, np.full(4, 0.25))
        self._call("SetCategoryWeights", 0, np.ones(1))
        self._call("SetCategoryRates", np.ones(1))
        self._call("SetPatternWeights", weights.double().numpy())

    def __del__(self) -> None:
        self._library.beagleFinalizeInstance(self._instance)

    def log_likelihood(self, parents: Sequence[int], lengths: np.ndarray) -> float:
        """Return the log-likelihood of a canonical unrooted tree with branch lengths ``(E,)``, float64."""
        self._update(lengths, derivatives=False)
        children = self._children(parents)
        self._operate(self._upwards(children))
        return self._edge(self._num_taxa, 0, self._num_taxa - 1, derivatives=False)[0]

    def gradients(self, parents: Sequence[int], lengths: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the log-likelihood and its derivatives in the branch lengths, ``(E,)``."""
        self._update(lengths, derivatives=True)
        children, above, num_taxa = self._children(parents), 2 * self._num_taxa, self._num_taxa
        operations = self._upwards(children)
        for node in range(num_taxa, 2 * num_taxa - 2):
            rest = above + node if node > num_taxa else 0  # above the highest internal node is taxon 0
            first, second = children[node - num_taxa]
            for child, sibling in ((first, second), (second, first)):
                operations.append((above + child, _NONE, _NONE, sibling, sibling - 1, rest, node - 1))
        self._operate(operations)
        gradient, value = np.empty(self._num_edges), 0.0
        for node in range(1, 2 * num_taxa - 2):
            # The first of the two must not be a leaf, and by reversibility may be either.
            ends = (node, 0) if node == num_taxa else (above + node, node)
            value, gradient[node - 1] = self._edge(*ends, node - 1, derivatives=True)
        return value, gradient

    def _children(self, parents: Sequence[int]) -> list[list[int]]:
        children: list[list[int]] = [[] for _ in parents[self._num_taxa :]]
        for node, above in enumerate(parents):
            if above >= self._num_taxa:
                children[above - self._num_taxa].append(node)
        return children

    def _upwards(self, children: list[list[int]]) -> list[tuple[int, ...]]:
        operations = []
        for k in range(len(children) - 1, -1, -1):
            first, second = children[k]
            operations.append((self._num_taxa + k, _NONE, _NONE, first, first - 1, second, second - 1))
        return operations

    def _update(self, lengths: np.ndarray, derivatives: bool) -> None:
        indices = np.arange(self._num_edges, dtype=np.int32)
        of_derivatives = indices + np.int32(self._num_edges) if derivatives else None
        self._call("UpdateTransitionMatrices", 0, indices, of_derivatives, None, lengths, len(indices))

    def _operate(self, operations: list[tuple[int, ...]]) -> None:
        self._call("UpdatePartials", np.array(operations, np.int32), len(operations), _NONE)

    def _edge(self, above: int, below: int, edge: int, derivatives: bool) -> tuple[float, float]:
        value, slope = np.empty(1), np.empty(1)
        numbers = np.array([above, below, edge, edge + self._num_edges, 0, _NONE], np.int32)
        ends, matrices, zero, nothing = (numbers[:1], numbers[1:2]), numbers[2:], numbers[4:], numbers[5:]
        slopes = matrices[1:] if derivatives else None
        arguments = (*ends, matrices, slopes, None, zero, zero, nothing, 1, value)
        self._call("CalculateEdgeLogLikelihoods", *arguments, slope if derivatives else None, None)
        return float(value[0]), float(slope[0])

    def _call(self, name: str, *arguments: int | np.ndarray | None) -> None:
        passed = [x.ctypes.data_as(ctypes.c_void_p) if isinstance(x, np.ndarray) else x for x in arguments]
        code = getattr(self._library, f"beagle{name}")(self._instance, *passed)
        if code:
            raise RuntimeError(f"beagle{name} gave the error {code}")
