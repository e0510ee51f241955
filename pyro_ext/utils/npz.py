"""Arrays of ``.npz`` files, read without running code from them and in no more memory than they say."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_ext.utils.packed import check_growth

__all__ = ["DamagedArchive", "npz_arrays"]


class DamagedArchive(Exception):
    """What is wrong with an archive."""


def npz_arrays(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read all arrays of an archive.

    Args:
        path: the file.

    Raises:
        DamagedArchive: if it is no archive of arrays without Python objects; the message lacks the name of the file.
        OSError: if the file cannot be opened.
    """
    with open(path, "rb") as raw:
        try:
            return _arrays(path, raw)
        except Exception as error:  # the libraries raise whatever they come upon
            reason = str(error) if isinstance(error, DamagedArchive) else "it is no .npz archive, or not a whole one"
            raise DamagedArchive(reason) from error


def _arrays(path: str | Path, raw: IO[bytes]) -> dict[str, np.ndarray[Any, Any]]:
    with zipfile.ZipFile(raw) as archive:
        parts = archive.infolist()
        try:
            check_growth(path, sum(part.file_size for part in parts))
        except ValueError as error:
            raise DamagedArchive(str(error).partition(": ")[2]) from error
        if len({part.filename for part in parts}) < len(parts):
            raise DamagedArchive("it holds an array twice")
        return {part.filename.removesuffix(".npy"): _array(archive.read(part), part.filename) for part in parts}


def _array(content: bytes, name: str) -> np.ndarray[Any, Any]:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DamagedArchive(f"{name} is of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    if dtype.hasobject:
        raise DamagedArchive(f"{name} holds objects of Python")
    if dtype.itemsize == 0:  # of which a few bytes can promise any number
        raise DamagedArchive(f"{name} holds entries without content, {dtype}")
    start = stream.tell()
    if len(content) - start != math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
        raise DamagedArchive(f"{name} has {len(content) - start} bytes, which do not fit its shape {shape}")
    return np.ndarray(shape, dtype, content, start, order="F" if is_fortran else "C").copy()
