"""The bytes of files, plain or compressed, piece by piece; what is no text is refused by name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["check_text", "pieces"]

_OPENERS: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ": ("xz", lzma.open),
}
_SIGNATURES = {
    b"\xff\xfe": "UTF-16: convert the file to UTF-8",
    b"\xfe\xff": "UTF-16: convert the file to UTF-8",
    b"PK\x03\x04": "a zip archive: unpack it",
}
_LEAST = 16  # bytes of the first piece, enough to tell what a file is


def pieces(path: Path, size: int, advance: Callable[[int], object] | None = None) -> Iterator[bytes]:
    """Yield the text of a file in pieces, unpacked if it is compressed with gzip, bzip2 or xz.

    No more than one piece is held at a time, however much a file grows when it is unpacked.

    Args:
        path: the file to read.
        size: the number of bytes of a piece.
        advance: a function that is told after each piece how many bytes of the file it took.

    Raises:
        ValueError: if the file is broken, or holds no text; the message names it.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as raw:
        begin = raw.read(_LEAST)
        raw.seek(0)
        kind, opener = next((of for mark, of in _OPENERS.items() if begin.startswith(mark)), ("", None))
        source: IO[bytes] = raw if opener is None else opener(raw)
        before, is_first = 0, True
        while piece := _read(source, max(size, _LEAST) if is_first else size, kind, path):
            check_text(piece, str(path), is_first)
            yield piece.removeprefix(b"\xef\xbb\xbf") if is_first else piece
            is_first = False
            if advance is not None:
                advance(raw.tell() - before)
                before = raw.tell()


def check_text(piece: bytes, path: str, is_first: bool) -> None:
    """Refuse bytes that are no text.

    Args:
        piece: the bytes.
        path: the name of the file, for the message.
        is_first: whether they are the first bytes of the file.

    Raises:
        ValueError: if they are those of another format, or hold a zero.
    """
    if is_first:
        for begin, what in _SIGNATURES.items():
            if piece.startswith(begin):
                raise ValueError(f"{path}: this is {what}")
    if b"\0" in piece:
        raise ValueError(f"{path}: the file holds zero bytes, so it is no text, or UTF-16: convert it to UTF-8")


def _read(source: IO[bytes], size: int, kind: str, path: Path) -> bytes:
    try:
        return source.read(size)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if not kind or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise ValueError(f"{path}: not a whole {kind} file; get it again") from error
