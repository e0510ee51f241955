"""Where data files are looked for: in the folder named by the environment variable ``PYRO_EXT_DATA``."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ENVIRONMENT_VARIABLE", "MissingDataError", "data_root", "find_file"]

ENVIRONMENT_VARIABLE = "PYRO_EXT_DATA"


class MissingDataError(FileNotFoundError, ValueError):
    """A data file is not there; the message says where to get it and where to put it."""


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
        folder: the data set's folder inside ``PYRO_EXT_DATA``.
        name: the file's plain name.

    Raises:
        MissingDataError: if ``PYRO_EXT_DATA`` names something that is not a folder.
    """
    root = data_root()
    if root is None:
        return None
    candidates = (root / folder / name, root / folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)
