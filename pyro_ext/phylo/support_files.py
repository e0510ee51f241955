"""Arrays in ``.npz`` files, written whole or not at all, read without running anything."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["named", "read_arrays", "write_arrays"]

_VERSION = 1
_KIND = "pyro_ext subsplits"


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write arrays to a file, which appears when all is written.

    Args:
        path: where; it need not end in ``.npz``.
        arrays: by name; no objects.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, kind=_KIND, version=_VERSION, **arrays)  # type: ignore[arg-type]
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def read_arrays(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read arrays back.

    Args:
        path: of a file by :func:`write_arrays`.
        names: of the arrays that must be there.

    Returns:
        All arrays by name.

    Raises:
        ValueError: if the file is none of these, is damaged, or of a later version.
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
    """Return an error that names the file, once."""
    message = str(error)
    return ValueError(message if message.startswith(str(path)) else f"{path}: {message}")


def _arrays(path: str | Path, raw: IO[bytes]) -> dict[str, np.ndarray[Any, Any]]:
    raw.seek(0)
    try:
        with np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path} is no file of subsplits, or damaged: {error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
