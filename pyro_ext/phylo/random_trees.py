"""Random topologies, and lists of all topologies, by adding taxa to the edges of a tree one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.bits import lexicographic_order
from pyro_ext.phylo.canonical import canonicalize
from pyro_ext.utils.checks import positive_int

__all__ = ["all_trees", "num_topologies", "random_trees"]

_MOST = 2_100_000  # trees that may be listed


def num_topologies(n: int, rooted: bool = False) -> int:
    r"""Return how many binary topologies there are over ``n`` taxa.

    .. math::  (2n - 5)!! = 1 \cdot 3 \cdot 5 \cdots (2n - 5), \qquad (2n - 3)!! \text{ if rooted.}

    Args:
        n: the number of taxa, at least 2.
        rooted: whether to count rooted trees.

    Raises:
        ValueError: if ``n`` is less than 2.

    Example:
        >>> num_topologies(9), num_topologies(8, rooted=True)
        (135135, 135135)
    """
    positive_int("n", n, minimum=2)
    count = 1
    for edges in range(3, 2 * (n + rooted) - 4, 2):
        count *= edges
    return count


def random_trees(
    n: int,
    num_trees: int,
    *,
    rooted: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw topologies uniformly: each taxon is added to an edge chosen uniformly.

    Args:
        n: the number of taxa, at least 2.
        num_trees: the number of trees to draw.
        rooted: whether to draw rooted trees.
        generator: the random generator, on the same device; torch's default generator if None.
        device: the device on which the trees are drawn.

    Returns:
        Canonical trees, ``(num_trees, 2n - 2)``, or ``(num_trees, 2n - 1)`` if rooted.

    Raises:
        ValueError: if ``n`` is less than 2 or ``num_trees`` negative.

    Example:
        >>> random_trees(4, 2, generator=torch.Generator().manual_seed(0))
        tensor([[-1,  5,  5,  4,  0,  4],
                [-1,  5,  4,  5,  0,  4]])
    """
    positive_int("n", n, minimum=2)
    positive_int("num_trees", num_trees, minimum=0)
    taxa = n + rooted  # a rooted tree is an unrooted one with a taxon at its root
    trees = _first(taxa, num_trees, device)
    for taxon in range(2, taxa):
        edge = torch.randint(2 * taxon - 3, (num_trees,), generator=generator, device=device)
        _join(trees, taxon, edge)
    return _finish(trees, rooted)


def all_trees(n: int, *, rooted: bool = False, device: torch.device | str | None = None) -> Tensor:
    """List all topologies.

    Args:
        n: the number of taxa, 2 to 9, or 2 to 8 if rooted: 135,135 trees.
        rooted: whether to list rooted trees.
        device: the device on which the trees are listed.

    Returns:
        Canonical trees, ``((2n - 5)!!, 2n - 2)``, or ``((2n - 3)!!, 2n - 1)`` if rooted.

    Raises:
        ValueError: if ``n`` is less than 2, or there are too many trees to list.

    Example:
        >>> all_trees(4)
        tensor([[-1,  4,  5,  5,  0,  4],
                [-1,  5,  4,  5,  0,  4],
                [-1,  5,  5,  4,  0,  4]])
    """
    if num_topologies(n, rooted) > _MOST:
        raise ValueError(f"n={n} taxa have {num_topologies(n, rooted):,} trees, too many to list: draw random_trees")
    taxa = n + rooted
    trees = _first(taxa, 1, device)
    for taxon in range(2, taxa):
        edges = 2 * taxon - 3
        edge = torch.arange(edges, device=device).repeat(len(trees))
        trees = trees.repeat_interleave(edges, 0)
        _join(trees, taxon, edge)
    topologies = _finish(trees, rooted)
    return topologies[lexicographic_order(topologies)]


def _first(taxa: int, num_trees: int, device: torch.device | str | None) -> Tensor:
    """Return trees of taxa 0 and 1; all nodes that are added later have parent 0."""
    trees = torch.zeros(num_trees, 2 * taxa - 2, dtype=torch.int64, device=device)
    trees[:, 0] = -1
    return trees


def _join(trees: Tensor, taxon: int, edge: Tensor) -> None:
    """Put a new node on each tree's ``edge``, with the taxon as its second child."""
    taxa = trees.shape[-1] // 2 + 1
    node = taxa + taxon - 2
    below = torch.where(edge < taxon - 1, edge + 1, taxa + edge - (taxon - 1)).unsqueeze(-1)
    trees[:, node] = trees.gather(-1, below).squeeze(-1)
    trees.scatter_(-1, below, node)
    trees[:, taxon] = node


def _finish(trees: Tensor, rooted: bool) -> Tensor:
    parents = canonicalize(trees).parents
    return parents[:, 1:] - 1 if rooted else parents
