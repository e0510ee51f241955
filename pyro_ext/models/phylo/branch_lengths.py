"""A law of branch lengths shared by all topologies of a support, through the subsplits around each edge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.ops.subsplits.rootings import TreeIndex
from pyro_ext.phylo import SubsplitSupport

__all__ = ["SplitBranchLengths"]

_LOG_LENGTH = -2.0  # where training begins: lengths about .14,
_LOG_SCALE = -1.0  # give or take a third


class SplitBranchLengths(PyroModule):
    r"""Log-normal branch lengths whose parameters add up over the subsplits next to an edge.

    .. math::  \log b_e \sim \mathcal{N}(\mu_e, \sigma_e^2), \qquad
        \mu_e = \mu_0 + \psi^\mu_{s(e)} + \sum_p \psi^\mu_{p}, \qquad
        \log \sigma_e = \lambda_0 + \psi^\sigma_{s(e)} + \sum_p \psi^\sigma_{p}

    where s(e) is the split that the edge makes and p runs over the primary subsplit pairs: that split and the subsplit
    at either end of the edge which is no leaf. Topologies that agree around an edge share its law.

    Args:
        support: the subsplits of unrooted trees of n taxa.
        dtype: of the parameters.

    Raises:
        ValueError: if the support is of rooted trees.

    References:
        | Variational Bayesian phylogenetic inference (Zhang and Matsen, 2019), section 3.2
        | https://openreview.net/forum?id=SJVmjjR9FX

    Example:
        >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4]])
        >>> lengths = SplitBranchLengths(SubsplitSupport.from_trees(trees))
        >>> lengths(trees).event_shape, lengths(trees).batch_shape
        (torch.Size([5]), torch.Size([1]))
    """

    def __init__(self, support: SubsplitSupport, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if support.rooted:
            raise ValueError(f"support must be of unrooted trees, got {support!r}")
        self.support = support
        # location and log-scale, split by split, and a row that stays 0 for what an edge does not have
        self.effects = nn.Parameter(torch.zeros(support.num_parameters, 2, dtype=dtype, device=support.device))

    def forward(self, trees: Tensor, index: TreeIndex | None = None) -> TorchDistribution:
        """Return the law of the branch lengths of trees, event shape ``(2n - 3,)``.

        Args:
            trees: ``batch_shape + (2n - 2,)``.
            index: their subsplits, if they have been looked up already.
        """
        if index is None:
            index = self.support.index(trees.reshape(-1, trees.shape[-1]))
        rows = self._neighbours(index.position)
        padded = torch.cat([self.effects, self.effects.new_zeros(2, 2)])
        total = padded[rows].sum(-2).reshape(*trees.shape[:-1], -1, 2)
        loc, log_scale = (total + total.new_tensor([_LOG_LENGTH, _LOG_SCALE])).unbind(-1)
        return dist.LogNormal(loc, log_scale.exp(), validate_args=False).to_event(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SplitBranchLengths:
        """Let the support follow the parameters to their device, as ``to`` and ``cuda`` would not of themselves."""
        super()._apply(fn, recurse)
        self.support = self.support.to(self.effects.device)
        return self

    def _neighbours(self, position: Tensor) -> Tensor:
        """Return the places of the split and the two primary subsplit pairs of each edge, ``(T, 2n - 3, 3)``."""
        n = self.support.num_taxa
        num_nodes = 2 * n - 2
        root, upper, _, own, _, _ = position.split([num_nodes] * 3 + [n - 2] * 3, -1)
        none = position.new_full((len(position), n), self.support.num_parameters + 1)
        return torch.stack([root, upper, torch.cat([none, own], -1)], -1)[:, 1:]
