"""The text of files, plain or compressed, piece by piece; what is no text is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pyro_ext.utils.packed import unpacked

__all__ = ["check_text", "pieces"]

_SIGNATURES = {
    b"\xff\xfe": "UTF-16: convert the file to UTF-8",
    b"\xfe\xff": "UTF-16: convert the file to UTF-8",
    b"PK\x03\x04": "a zip archive: unpack it",
}
_LEAST = 16  # bytes of a piece, enough to tell what a file is


def pieces(path: Path, size: int, advance: Callable[[int], object] | None = None) -> Iterator[bytes]:
    """Yield the text of a file in pieces, unpacked if it is compressed with gzip, bzip2 or xz.

    Args:
        path: the file to read.
        size: the number of bytes of a piece.
        advance: a function that is told after each piece how many bytes of the file it took.

    Raises:
        ValueError: if the file is broken, grows without measure when it is unpacked, or holds no text; the message
            names it.
        OSError: if the file cannot be read.
    """
    is_first = True
    for piece in unpacked(path, max(size, _LEAST), advance):
        check_text(piece, str(path), is_first)
        yield piece.removeprefix(b"\xef\xbb\xbf") if is_first else piece
        is_first = False


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
