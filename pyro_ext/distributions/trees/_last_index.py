"""Where the subsplits of trees are among the parameters, those of the last trees remembered."""

from __future__ import annotations

from torch import Tensor

from pyro_ext.ops.subsplits.rootings import TreeIndex
from pyro_ext.phylo.support import SubsplitSupport

__all__ = ["LastIndex"]


class LastIndex:
    """The subsplits of trees in a support, those of the last tensor remembered until it changes.

    A program asks for the same trees several times: as a draw, as a value, for branch lengths.

    Args:
        support: the support whose subsplits are looked up.
        rooted: whether the trees are read as rooted ones.
    """

    def __init__(self, support: SubsplitSupport, rooted: bool) -> None:
        self._support = support
        self._rooted = rooted
        self._last: tuple[Tensor, int, TreeIndex] | None = None

    def __call__(self, trees: Tensor) -> TreeIndex:
        """Return the index of trees ``(..., N)``, in one row, ``(T, L)``."""
        if trees.is_inference():  # nobody counts its changes
            return self._find(trees)
        last = self._last
        if last is not None and last[0] is trees and last[1] == trees._version:
            return last[2]
        index = self._find(trees)
        self._last = (trees, trees._version, index)
        return index

    def _find(self, trees: Tensor) -> TreeIndex:
        return self._support.index(trees.flatten(0, -2) if trees.dim() > 1 else trees.unsqueeze(0), self._rooted)
