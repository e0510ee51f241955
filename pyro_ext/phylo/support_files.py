"""Arrays in ``.npz`` files: written whole or not at all, and read without running code from the file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_ext.utils.files import replacing

__all__ = ["named", "read_arrays", "write_arrays"]

_VERSION = 1
_KIND = "pyro_ext subsplits"


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
    with open(path, "rb") as raw:
        if raw.read(4) != b"PK\x03\x04":  # numpy would take it for a pickle
            raise ValueError(
                f"{path} is no file of subsplits, or damaged: it is no .npz archive; write one with save()"
            )
        arrays = _arrays(path, raw)
    if str(arrays.pop("kind", "")) != _KIND:
        raise ValueError(f"{path} is no file of subsplits: write one with save()")
    version = arrays.pop("version", np.array(0))
    if version.shape != () or version.dtype.kind not in "iu" or not 1 <= int(version) <= _VERSION:
        raise ValueError(f"{path} has version {version}, not 1 to {_VERSION}: read it with a later pyro_ext")
    if missing := sorted(set(names) - arrays.keys()):
        raise ValueError(f"{path} has no {', '.join(missing)}, only {', '.join(sorted(arrays))}")
    return arrays


def named(error: Exception, path: str | Path) -> ValueError:
    """Return the error as a ValueError whose message names the file, unless it does already."""
    message = str(error)
    return ValueError(message if message.startswith(str(path)) else f"{path}: {message}")


def _arrays(path: str | Path, raw: IO[bytes]) -> dict[str, np.ndarray[Any, Any]]:
    raw.seek(0)
    try:
        with np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path} is no file of subsplits, or damaged: {error}") from error
