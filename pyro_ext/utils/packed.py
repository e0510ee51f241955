"""The bytes of files, plain or compressed, piece by piece, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["check_growth", "unpacked"]

_OPENERS: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ": ("xz", lzma.open),
}
_LONGEST_MARK = max(map(len, _OPENERS))
_HARMLESS = 2**28  # bytes
_MOST_TIMES = 500


def unpacked(path: Path, size: int, advance: Callable[[int], object] | None = None) -> Iterator[bytes]:
    """Yield the content of a file in pieces, unpacked if it is compressed with gzip, bzip2 or xz.

    No more than one piece is held at a time, however much a file grows when it is unpacked.

    Args:
        path: the file to read.
        size: the number of bytes of a piece.
        advance: a function that is told after each piece how many bytes of the file it took.

    Raises:
        ValueError: if the file is broken, or grows without measure; the message names it.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as raw:
        begin = raw.read(_LONGEST_MARK)
        raw.seek(0)
        kind, opener = next((of for mark, of in _OPENERS.items() if begin.startswith(mark)), ("", None))
        source: IO[bytes] = raw if opener is None else opener(raw)
        before, total = 0, 0
        while piece := _read(source, size, kind, path):
            total += len(piece)
            if kind:
                check_growth(path, total)
            yield piece
            if advance is not None:
                advance(raw.tell() - before)
                before = raw.tell()


def check_growth(path: str | Path, size: int) -> None:
    """Refuse a compressed file that holds far more than what is written in it, as one made to fill the memory does.

    Args:
        path: the file.
        size: how many bytes its content has, or has so far.

    Raises:
        ValueError: if these are more than 256 MiB, and more than 500 times the size of the file.
    """
    packed = Path(path).stat().st_size
    if size > _HARMLESS and size > _MOST_TIMES * packed:
        raise ValueError(
            f"{path}: {packed:,} compressed bytes hold more than {size // 2**20:,} MiB, which is hardly meant; if it "
            "is, unpack the file first"
        )


def _read(source: IO[bytes], size: int, kind: str, path: Path) -> bytes:
    try:
        return source.read(size)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if not kind or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise ValueError(f"{path}: not a whole {kind} file; get it again") from error
