"""Steps towards canonical trees; batches are held node by node, ``(M, T)``, except in :func:`sort_by_depth`."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["collapse_root", "root_at_first_leaf", "sort_by_depth"]


def sort_by_depth(parents: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
    """Number the internal nodes so that parents come before their children.

    Args:
        parents: parent vectors, ``(T, M)``.
        n: the number of leaves.

    Returns:
        The parents, and the old number of each new node, ``None`` if no number changes.

    Raises:
        ValueError: if there is a cycle.
    """
    number = torch.arange(parents.shape[1], device=parents.device)
    if (parents[:, n:] < number[n:]).all():
        return parents, None
    index = _depths(parents)[:, n:].sort(dim=1, stable=True).indices + n
    index = torch.cat([number[:n].expand(len(index), n), index], -1)
    new = torch.empty_like(index).scatter_(1, index, number.expand_as(index))
    old = parents.gather(1, index)
    return torch.where(old < 0, -1, new.gather(1, old.clamp(min=0))), index


def _depths(parents: Tensor) -> Tensor:
    """Count the edges up to the root, by pointers that double their reach."""
    num_trees, nodes = parents.shape
    sink = parents.numel()  # above all roots
    first = torch.arange(num_trees, device=parents.device).unsqueeze(-1) * nodes
    above = torch.cat([torch.where(parents < 0, sink, parents + first).flatten(), parents.new_tensor([sink])])
    depth = (above < sink).long()
    for _ in range(nodes.bit_length()):
        if (above == sink).all():
            return depth[:sink].view_as(parents)
        depth = depth + depth.index_select(0, above)
        above = above.index_select(0, above)
    row = parents[(above[:sink].view_as(parents) < sink).any(-1)][0].tolist()
    raise ValueError(f"parents holds {row}, which has a cycle: give trees")


def collapse_root(parents: Tensor, lengths: Tensor | None, n: int) -> tuple[Tensor, Tensor | None]:
    """Remove the root, node ``n``, which has two children; one of them becomes the root."""
    if n == 2:
        columns = torch.tensor([[-1], [0]], device=parents.device).expand(2, parents.shape[1]).contiguous()
        return columns, None if lengths is None else torch.stack([lengths[0], lengths[0] + lengths[1]])
    kept = n + 1  # since parents come first, this is a child of the root
    at_root = parents == n
    at_root[kept] = False
    other = at_root.int().argmax(0, keepdim=True)
    joined = parents.scatter(0, other, kept)
    joined[kept] = -1
    joined = torch.where(joined > n, joined - 1, joined)
    if lengths is not None:
        lengths = lengths.scatter(0, other, lengths.gather(0, other) + lengths[kept])
        lengths = torch.cat([lengths[:n], lengths[kept:]])
    return torch.cat([joined[:n], joined[kept:]]), lengths


def root_at_first_leaf(parents: Tensor, lengths: Tensor | None, n: int) -> tuple[Tensor, Tensor | None]:
    """Make leaf 0 the root: reverse the edges between it and the old root, and number parents before children."""
    nodes, num_trees = parents.shape
    if (parents[0] < 0).all():
        return parents, lengths
    top = torch.full_like(parents[:1], nodes)  # above the root
    above = torch.cat([torch.where(parents < 0, nodes, parents), top])
    own = None if lengths is None else torch.cat([lengths, torch.zeros_like(lengths[:1])])
    rank = torch.full_like(above, -1)
    columns = torch.arange(num_trees, device=parents.device)
    node, before = torch.zeros_like(columns), top[0]
    carried = None if own is None else torch.zeros_like(own[0])
    step = 0
    while (node < nodes).any():
        here = node * num_trees + columns
        after = above.view(-1).index_select(0, here)
        above.view(-1).scatter_(0, here, torch.where(node < nodes, before, nodes))
        rank.view(-1).scatter_(0, here, step)
        if own is not None and carried is not None:
            there = own.view(-1).index_select(0, here)
            own.view(-1).scatter_(0, here, carried)
            carried = there
        node, before, step = after, node, step + 1
    return _path_first(above[:nodes], None if own is None else own[:nodes], rank[n:nodes], n)


def _path_first(above: Tensor, lengths: Tensor | None, rank: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
    """Number the internal nodes that have a rank first, in the order of the ranks, then the others as they come."""
    nodes = len(above)
    on_path = rank >= 0
    others = on_path.sum(0) + (~on_path).cumsum(0) - 1
    new = torch.where(on_path, rank - 1, others) + n  # the leaf has rank 0
    leaves = torch.arange(n, device=above.device).unsqueeze(-1).expand(n, above.shape[1])
    number = torch.cat([leaves, new, torch.full_like(above[:1], -1)])
    parents = torch.empty_like(above).scatter_(0, number[:nodes], number.gather(0, above))
    return parents, None if lengths is None else torch.empty_like(lengths).scatter_(0, number[:nodes], lengths)
