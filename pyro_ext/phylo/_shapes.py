"""Checks of parent vectors, and batches cut into pieces that fit into the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["check_binary", "check_parents", "row_chunks"]

_CHUNK = 2**19  # nodes; larger pieces were slower in measurements


def check_parents(parents: Tensor) -> None:
    """Raise a ValueError unless ``parents`` holds integers and has a last dim."""
    if parents.dim() == 0 or parents.is_floating_point() or parents.is_complex() or parents.dtype == torch.bool:
        raise ValueError(
            f"parents must hold integers, batch_shape + (number of nodes,), got {parents.dtype} "
            f"of shape {tuple(parents.shape)}"
        )


def check_binary(parents: Tensor) -> None:
    """Raise a ValueError unless all ``(T, M)`` parent vectors have one root and the children of a binary tree."""
    nodes = parents.shape[-1]
    n = nodes // 2 + 1
    root = parents == -1
    inside = (parents >= -1) & (parents < nodes)
    children = torch.zeros_like(parents).scatter_add_(-1, parents.clamp(0, nodes - 1), (~root).long())
    wanted = torch.full_like(children, 2)
    wanted[:, :n] = 0
    number = torch.arange(nodes, device=parents.device)
    at_root = 2 if nodes % 2 else torch.where(number < n, 1, 3)  # the root of an unrooted tree may be a leaf
    right = children == torch.where(root, at_root, wanted)
    ok = (inside & right).all(-1) & (root.sum(-1) == 1)
    if ok.all():
        return
    row = parents[~ok][0].tolist()
    raise ValueError(
        f"parents holds {row}, no binary tree of {n} taxa: leaves are 0..{n - 1}, one root has parent -1, "
        "inner nodes have two children"
    )


def row_chunks(flat: Tensor) -> Iterator[slice]:
    """Yield slices over the first dim of ``(T, M)``, at least one."""
    step = max(1, _CHUNK // flat.shape[-1])
    for start in range(0, max(1, len(flat)), step):
        yield slice(start, start + step)
