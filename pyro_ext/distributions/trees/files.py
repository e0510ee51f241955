"""Networks on disk: the support and the logits in one ``.npz`` file."""

from __future__ import annotations

from pathlib import Path

import torch

from pyro_ext.distributions.trees.subsplit import SubsplitBayesianNetwork
from pyro_ext.phylo.support import ARRAYS, SubsplitSupport
from pyro_ext.phylo.support_files import read_arrays, write_arrays

__all__ = ["load_network", "save_network"]


def save_network(path: str | Path, network: SubsplitBayesianNetwork) -> None:
    """Write a network to an ``.npz`` file, whole or not at all; ``SubsplitSupport.load`` reads its support alone.

    Args:
        path: the file, which is replaced if there is one.
        network: one network, without a batch, of the kind of trees its support is of.

    Raises:
        ValueError: if it is a batch of networks, or of rooted trees on a support of unrooted ones or the reverse.
    """
    support = network.subsplits
    if network.batch_shape:
        raise ValueError(f"network has batch shape {tuple(network.batch_shape)}: save its elements one by one")
    if (network.event_shape[-1] % 2 == 1) != support.rooted:
        raise ValueError(f"network must be of the kind of trees of its support, {support!r}")
    write_arrays(path, {**support.to_arrays(), "logits": network.logits.detach().cpu().numpy()})


def load_network(path: str | Path) -> SubsplitBayesianNetwork:
    """Read a network back.

    Args:
        path: a file by :func:`save_network`.

    Raises:
        ValueError: if there is no network in the file.
        OSError: if the file cannot be opened.

    Example:
        >>> import tempfile
        >>> law = SubsplitBayesianNetwork.from_trees(torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_network(Path(folder) / "sbn.npz", law)
        ...     bool((load_network(Path(folder) / "sbn.npz").logits == law.logits).all())
        True
    """
    arrays = read_arrays(path, (*ARRAYS, "logits"))
    logits = torch.from_numpy(arrays.pop("logits"))
    return SubsplitBayesianNetwork(SubsplitSupport.from_arrays(arrays), logits)
