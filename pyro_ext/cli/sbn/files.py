"""The files that the tasks of ``pyro-ext sbn`` read and write."""

from __future__ import annotations

from pathlib import Path

from pyro_ext.distributions import SubsplitBayesianNetwork
from pyro_ext.utils.files import check_target

__all__ = ["new_file", "new_folder", "read_network"]


def read_network(path: str) -> tuple[SubsplitBayesianNetwork, bool]:
    """Read a network, and whether its trees are rooted."""
    network = SubsplitBayesianNetwork.load(path)
    if network.batch_shape:
        raise ValueError(f"{path} holds a batch of networks, {tuple(network.batch_shape)}: save the one to be used")
    return network, bool(network.event_shape[0] % 2)


def new_file(name: str, suffix: str | None, overwrite: bool) -> Path:
    """Return the path of a file to write, once it is certain that it can be written."""
    path = Path(name)
    if suffix is not None and path.suffix != suffix:
        raise ValueError(f"--out must end in {suffix}, got {name!r}")
    if path.is_dir():
        raise ValueError(f"--out: {name!r} is a folder; name a file")
    check_target(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{name!r} exists; choose another name, or say --overwrite")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r} for {path.name!r}; make it first")
    return path


def new_folder(name: str, overwrite: bool) -> Path:
    """Return the path of a folder to fill, once it is certain that nothing is in it, or may be replaced."""
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out: {name!r} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"--out: {name!r} is not empty; choose another folder, or say --overwrite")
    return path
