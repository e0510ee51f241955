"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_folder", "check_target", "replacing", "write_text"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the place of ``path`` once the block has ended well.

    What was at ``path`` stays there until then, and for good where the block fails.

    Args:
        path: the file to write, whose folder exists. The temporary name has the same ending and lies beside it.

    Raises:
        ValueError: if there is something at ``path`` that is no regular file, which would be replaced, too.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/table.csv") as partial:
        ...         _ = partial.write_text("a,b")
        ...     [file.name for file in Path(folder).iterdir()]
        ['table.csv']
    """
    path = check_target(path)
    if path.is_symlink():
        path = path.resolve()  # the link stays
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    partial.unlink(missing_ok=True)  # of a process that was killed, or a link to elsewhere
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # a file whose name has changed must not turn out empty after a power cut
        check_target(path)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_target(path: str | Path) -> Path:
    """Return ``path`` if it is a regular file, or nothing is there; what is neither would be replaced by a file.

    Args:
        path: the file to write, which may be a link.

    Raises:
        ValueError: if it is a folder, a device, a FIFO or a socket.
        OSError: if that cannot be told.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path
    if not stat.S_ISREG(mode):
        kind = next((name for is_one, name in _KINDS if is_one(mode)), "something else")
        raise ValueError(f"{str(path)!r} is {kind}, no regular file, which would be replaced; choose another path")
    return path


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8 to a file that is at no time seen half written."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def check_folder(name: str, path: str | Path) -> Path:
    """Return ``path`` if it is a folder that can be written to, or can become one; nothing is left behind.

    Args:
        name: what the argument is called.
        path: the folder.

    Raises:
        ValueError: if a file is in the way, or nothing can be written there.
    """
    path = Path(path)
    try:
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{name}={str(path)!r} is a link to nowhere; remove it or choose another path")
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not existing.is_dir():
            reason = f"{str(existing)!r} is a file; choose another path"
            raise ValueError(f"{name}={str(path)!r} cannot be a folder: {reason}")
        _try_to_write(existing)
    except OSError as error:
        raise ValueError(f"{name}={str(path)!r} cannot be written to: {error.strerror}; choose another path") from error
    return path


def _try_to_write(folder: Path) -> None:
    """Make a file in a folder, since access bits do not tell on every file system.

    Raises:
        OSError: if that does not work.
    """
    if hasattr(os, "O_TMPFILE"):  # a file without a name, which not even a killed process leaves behind
        try:
            os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        else:
            return
    with tempfile.TemporaryDirectory(dir=folder):
        pass
