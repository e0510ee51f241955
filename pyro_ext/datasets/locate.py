"""Data files: found in the folder named by the environment variable ``PYRO_EXT_DATA``, or fetched into a cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ENVIRONMENT_VARIABLE", "MissingDataError", "data_root", "fetch", "find_file", "how_to_get"]

ENVIRONMENT_VARIABLE = "PYRO_EXT_DATA"


class MissingDataError(FileNotFoundError, ValueError):
    """A data file is missing; the message says where to get it and where to put it."""


def data_root() -> Path | None:
    """Return the folder named by ``PYRO_EXT_DATA``, or ``None`` where the variable is not set.

    Raises:
        MissingDataError: if the variable names something that is not a folder.
    """
    value = os.environ.get(ENVIRONMENT_VARIABLE)
    if not value:
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        raise MissingDataError(
            f"{ENVIRONMENT_VARIABLE} names {value!r}, which is not a folder; set it to the folder that holds the data"
        )
    return root


def find_file(folder: str, name: str) -> Path | None:
    """Return the path of a data file, plain or with ``.gz`` after its name, or ``None`` where there is none.

    Args:
        folder: the folder of the data set inside ``PYRO_EXT_DATA``.
        name: the name of the file, without ``.gz``.

    Raises:
        MissingDataError: if ``PYRO_EXT_DATA`` names something that is not a folder.
    """
    root = data_root()
    if root is None:
        return None
    candidates = (root / folder / name, root / folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def how_to_get(what: str, source: str, folder: str) -> str:
    """Return the message that a file is missing, where to get it and where to put it.

    Args:
        what: the file, in words.
        source: where to get the file.
        folder: the folder of the data set inside ``PYRO_EXT_DATA``.
    """
    return (
        f"{what} not found: get {source} and put it into the folder {folder} inside a data folder of your choice, and "
        f"set {ENVIRONMENT_VARIABLE} to the path of that data folder"
    )


def fetch(urls: Sequence[str], md5: str, folder: str, missing: str) -> Path:
    """Fetch a file, unless it was fetched before, and return its path in the cache folder of the user.

    Args:
        urls: the addresses of the file, which are tried in turn.
        md5: the MD5 sum of the file.
        folder: the folder of the data set inside the cache folder.
        missing: the message if the file cannot be fetched, as :func:`how_to_get` returns it.

    Raises:
        MissingDataError: if the file cannot be fetched from any address, or pooch is not installed.
    """
    try:
        import pooch
    except ImportError as error:
        raise MissingDataError(f"{missing} (or have it fetched: pip install 'pyro-ext[data]')") from error
    problems = []
    for url in urls:
        try:
            return Path(
                pooch.retrieve(
                    url,
                    known_hash=f"md5:{md5}",
                    fname=url.rpartition("/")[2],
                    path=pooch.os_cache("pyro_ext") / folder,
                    downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
                )
            )
        except (OSError, ValueError) as error:  # OSError: no network or no such page; ValueError: another MD5 sum
            problems.append(f"{type(error).__name__} at {url}")
    raise MissingDataError(f"{missing} (fetching it failed: {'; '.join(problems)})")
