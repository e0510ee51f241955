"""The IDX file format of MNIST and related data sets.

torchvision has a reader of this format too. It is not used, since every release of torchvision requires one exact
release of PyTorch, and so would decide which PyTorch can be installed. This reader also checks the size and the MD5 sum
of a file, and says what is wrong with a damaged one.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

__all__ = ["read_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path, md5: str | None = None) -> np.ndarray:
    r"""Read an IDX file, plain or compressed with gzip.

    The file holds two zero bytes, one byte for the type of the values, one byte for the number of dims, the size of
    each dim as a big-endian 32-bit integer, and the values in row-major order.

    Args:
        path: the path of the file, which is decompressed if its name ends in ``.gz``.
        md5: the expected MD5 sum of the decompressed content, which is the same for all copies, however they are
            compressed; None for no check.

    Returns:
        The array, in native byte order.

    Raises:
        ValueError: naming the file and what is wrong with it: broken compression, a bad magic number, too few or
            too many bytes, or content with another MD5 sum.

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
    content = _content(path)
    array = _parse(content, path)
    if md5 is not None and (actual := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise ValueError(
            f"{path}: content has MD5 {actual}, expected {md5}; it is another file or damaged: get it again"
        )
    return array


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); get it again") from error


def _parse(content: bytes, path: Path) -> np.ndarray:
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES or content[3] == 0:
        raise ValueError(f"{path}: not an IDX file, its magic number is 0x{content[:4].hex()}")
    dtype, num_dims = np.dtype(_DTYPES[content[2]]), content[3]
    start = 4 + 4 * num_dims
    if len(content) < start:
        raise ValueError(f"{path}: truncated in the header, {len(content)} bytes of {start}")
    shape = struct.unpack(f">{num_dims}I", content[4:start])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        problem = "truncated" if len(content) < expected else "too long"
        raise ValueError(f"{path}: {problem}, {len(content)} bytes where shape {shape} needs {expected}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
