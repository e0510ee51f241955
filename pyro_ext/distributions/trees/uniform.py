"""The uniform distribution of tree topologies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ext.distributions import constraints
from pyro_ext.phylo.random_trees import all_trees, num_topologies, random_trees
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["UniformTopology"]

_MOST_TAXA = 9  # listed


class UniformTopology(TorchDistribution):
    r"""The uniform distribution of binary topologies of n taxa.

    .. math::  p(\tau) = \frac{1}{(2n - 5)!!} \text{ unrooted}, \qquad p(\tau) = \frac{1}{(2n - 3)!!} \text{ rooted}.

    Args:
        num_taxa: the number n of taxa, at least 3.
        rooted: whether trees are rooted.
        like: a tensor whose type the log-probabilities have, and on whose device trees are drawn; torch's default if
            None.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``num_taxa`` is not an integer of at least 3.

    Example:
        >>> d = UniformTopology(5)
        >>> d.sample().shape, d.log_prob(d.sample()).exp()
        (torch.Size([8]), tensor(0.0667))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, num_taxa: int, rooted: bool = False, like: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        self.num_taxa, self.rooted = positive_int("num_taxa", num_taxa, minimum=3), rooted
        self._like = (torch.empty(()) if like is None else like).new_empty(())
        super().__init__(torch.Size(), torch.Size([2 * num_taxa - 2 + rooted]), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Canonical parent vectors."""
        return constraints.tree_topology

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the trees are few enough to be listed, up to 9 taxa."""
        return self.num_taxa + self.rooted <= _MOST_TAXA

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution broadcast to ``batch_shape``."""
        new = self._get_checked_instance(UniformTopology, _instance)
        self._like.expand(self.batch_shape).expand(batch_shape)  # refuses what does not broadcast
        new.num_taxa, new.rooted, new._like = self.num_taxa, self.rooted, self._like
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw topologies, int64 ``sample_shape + batch_shape + (N,)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        drawn = random_trees(self.num_taxa, math.prod(shape), rooted=self.rooted, device=self._like.device)
        return drawn.reshape(shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return minus the log of the number of topologies, for trees ``(..., N)``."""
        if self._validate_args:
            self._validate_sample(value)
        shape = broadcast_shapes(value.shape[:-1], self.batch_shape)
        return self._like.new_full(shape, -math.log(num_topologies(self.num_taxa, self.rooted)))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return every topology, ``(T,) + batch_shape + (N,)``, batch dims being 1 unless ``expand``.

        Raises:
            NotImplementedError: if there are too many.
        """
        if not self.has_enumerate_support:
            raise NotImplementedError(
                f"there are {num_topologies(self.num_taxa, self.rooted):.3g} topologies of {self.num_taxa} taxa, "
                "too many to list: sample from them"
            )
        trees = all_trees(self.num_taxa, rooted=self.rooted, device=self._like.device)
        values = trees.reshape(-1, *(1,) * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    def entropy(self) -> Tensor:
        """Return the log of the number of topologies, ``batch_shape``."""
        return self._like.new_full(self.batch_shape, math.log(num_topologies(self.num_taxa, self.rooted)))

    def __repr__(self) -> str:
        return f"UniformTopology(n={self.num_taxa}, rooted={self.rooted}, batch_shape: {tuple(self.batch_shape)})"
