"""The IDX file format of MNIST and related data sets.

torchvision has a reader of this format too. It is not used, since every release of torchvision requires one exact
release of PyTorch, and so would decide which PyTorch can be installed. This reader also checks the size and the MD5 sum
of a file, and says what is wrong with a damaged one.
"""

from __future__ import annotations

import hashlib
import math
import struct
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pyro_ext.utils.packed import unpacked

__all__ = ["read_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIECE_BYTES = 2**20
_MOST_DIMS = 32  # of arrays in every version of NumPy


def read_idx(path: str | Path, md5: str | None = None) -> np.ndarray:
    r"""Read an IDX file, plain or compressed with gzip, bzip2 or xz.

    The file holds two zero bytes, one byte for the type of the values, one byte for the number of dims, the size of
    each dim as a big-endian 32-bit integer, and the values in row-major order.

    Args:
        path: the path of the file.
        md5: the expected MD5 sum of the decompressed content, which is the same for all copies, however they are
            compressed; None for no check.

    Returns:
        The array, in native byte order.

    Raises:
        ValueError: naming the file and what is wrong with it: broken compression, a bad magic number, too few or
            too many bytes, more dims than an array can have, or content with another MD5 sum.
        OSError: if the file cannot be opened.

    References:
        | The MNIST database of handwritten digits (LeCun, Cortes and Burges, 1998)
        | http://yann.lecun.com/exdb/mnist/

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".idx") as file:
        ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        ...     file.flush()
        ...     read_idx(file.name)
        array([7, 8, 9], dtype=uint8)
    """
    path = Path(path)
    with path.open("rb") as file:
        if path.suffix == ".gz" and file.read(2) != b"\x1f\x8b":
            raise ValueError(f"{path}: not a whole gzip file; get it again")
    parts = unpacked(path, _PIECE_BYTES)
    begin = next(parts, b"")
    dtype, shape = _header(begin, path)
    start = 4 + 4 * len(shape)
    expected = start + math.prod(shape) * dtype.itemsize
    digest = hashlib.md5(usedforsecurity=False)
    values, size = bytearray(), 0
    for part in chain([begin], parts):
        digest.update(part)
        if size + len(part) <= expected:
            values += part  # what is too long is counted, not kept
        size += len(part)
    if size != expected:
        problem = "truncated" if size < expected else "too long"
        raise ValueError(f"{path}: {problem}, {size} bytes where shape {shape} needs {expected}")
    if md5 is not None and digest.hexdigest() != md5:
        raise ValueError(
            f"{path}: content has MD5 {digest.hexdigest()}, expected {md5}; it is another file or damaged: get it again"
        )
    try:
        array = np.frombuffer(values, dtype, offset=start).reshape(shape)
    except ValueError as error:  # one dim is 0, and the others are larger than an array can be
        raise ValueError(f"{path}: shape {shape} is none that an array can have") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _header(begin: bytes, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the type and the shape that the first bytes of a file declare."""
    if len(begin) < 4 or begin[:2] != b"\0\0" or begin[2] not in _DTYPES or begin[3] == 0:
        raise ValueError(f"{path}: not an IDX file, its magic number is 0x{begin[:4].hex()}")
    num_dims = begin[3]
    if num_dims > _MOST_DIMS:
        raise ValueError(f"{path}: the header says {num_dims} dims, more than the {_MOST_DIMS} of an array")
    start = 4 + 4 * num_dims
    if len(begin) < start:
        raise ValueError(f"{path}: truncated in the header, {len(begin)} bytes of {start}")
    return np.dtype(_DTYPES[begin[2]]), struct.unpack(f">{num_dims}I", begin[4:start])
