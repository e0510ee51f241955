"""Arrays in ``.npz`` files: written whole or not at all, and read without running code from the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_ext.utils.files import replacing
from pyro_ext.utils.npz import DamagedArchive, npz_arrays

__all__ = ["named", "read_arrays", "write_arrays"]

_VERSION = 1
_KIND = "pyro_ext subsplits"
_TEXTS = ("taxa",)
"""Arrays of texts; all others hold numbers."""


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write arrays to a file, which appears once it is complete.

    Args:
        path: the file to write; its name need not end in ``.npz``.
        arrays: the arrays by name, none of them of Python objects.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, kind=_KIND, version=_VERSION, **arrays)  # type: ignore[arg-type]


def read_arrays(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of a file.

    Args:
        path: a file that :func:`write_arrays` wrote.
        names: the names of arrays that the file must hold.

    Returns:
        All arrays of the file by name.

    Raises:
        ValueError: if the file was not written by :func:`write_arrays`, is damaged, or is of a later version.
    """
    try:
        arrays = npz_arrays(path)
    except DamagedArchive as error:
        raise ValueError(f"{path} is no file of subsplits, or damaged: {error}; write one with save()") from error
    if str(arrays.pop("kind", "")) != _KIND:
        raise ValueError(f"{path} is no file of subsplits: write one with save()")
    version = arrays.pop("version", np.array(0))
    if version.shape != () or version.dtype.kind not in "iu" or not 1 <= int(version) <= _VERSION:
        raise ValueError(f"{path} has version {version}, not 1 to {_VERSION}: read it with a later pyro_ext")
    if missing := sorted(set(names) - arrays.keys()):
        raise ValueError(f"{path} has no {', '.join(missing)}, only {', '.join(sorted(arrays))}")
    for name, array in arrays.items():
        is_text = name in _TEXTS
        if array.dtype.kind not in ("U" if is_text else "biuf") or (not is_text and array.dtype.itemsize > 8):
            raise ValueError(f"{path}: {name} holds {array.dtype}, where {'texts' if is_text else 'numbers'} belong")
    return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}


def named(error: Exception, path: str | Path) -> ValueError:
    """Return the error as a ValueError whose message names the file, unless it does already."""
    message = str(error)
    return ValueError(message if message.startswith(str(path)) else f"{path}: {message}")
