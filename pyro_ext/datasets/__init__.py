"""Data sets: bundled with scikit-learn, or found under the environment variable ``PYRO_EXT_DATA``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pyro_ext.datasets.base import Batch, IndexedDataset, Splits, collate
from pyro_ext.datasets.bundled import digits
from pyro_ext.datasets.idx import read_idx
from pyro_ext.datasets.locate import MissingDataError, find_file
from pyro_ext.datasets.mnist_files import mnist

__all__ = [
    "AVAILABLE",
    "Batch",
    "IndexedDataset",
    "MissingDataError",
    "Splits",
    "collate",
    "digits",
    "find_file",
    "load",
    "mnist",
    "read_idx",
]

AVAILABLE: Mapping[str, Callable[..., Splits]] = MappingProxyType({"digits": digits, "mnist": mnist})
"""Name of a data set -> the function that loads it."""


def load(name: str, **options: Any) -> Splits:
    """Load a data set by name.

    Args:
        name: one of :data:`AVAILABLE`.
        **options: arguments of that data set's loader.

    Raises:
        ValueError: if there is no such data set, or its loader has no such option.
        MissingDataError: if its files are neither at hand nor to be fetched.

    Example:
        >>> load("digits").train
        IndexedDataset(x (1500, 64), labels (1500,))
    """
    if name not in AVAILABLE:
        raise ValueError(f"name must be one of {', '.join(AVAILABLE)}; got {name!r}")
    known = inspect.signature(AVAILABLE[name]).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"data set {name!r} has no option {option!r}; it has {', '.join(known)}")
    return AVAILABLE[name](**options)
