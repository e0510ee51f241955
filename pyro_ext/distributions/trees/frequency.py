"""The relative frequencies of sampled trees, as a distribution: no other tree has any probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints as torch_constraints
from torch.distributions.utils import lazy_property

from pyro_ext.distributions import constraints
from pyro_ext.distributions.distinct import DistinctDraws, distinct_values
from pyro_ext.distributions.trees._best_trees import RanksTrees
from pyro_ext.distributions.trees._ranking import Ranking, ranked_list
from pyro_ext.ops.sets import SequenceSet, gumbel_topk
from pyro_ext.ops.subsplits.keys import KeyTable, clade_codes, find_keys, key_table
from pyro_ext.ops.subsplits.rows import distinct_rows
from pyro_ext.phylo.splits import split_words
from pyro_ext.phylo.support_trees import trees_and_weights
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["TreeFrequency"]


class TreeFrequency(RanksTrees):
    """Trees out of a list, each with a probability of its own: the relative frequencies of a sample.

    Args:
        trees: distinct canonical parent vectors, int64 ``(K, N)``.
        logits: the log-probabilities of the trees up to a constant, ``batch_shape + (K,)``; zeros if None.

    Raises:
        ValueError: if there are no trees, one is there twice or not canonical, or the logits do not fit.

    References:
        | Generalizing tree probability estimation via Bayesian networks (Zhang and Matsen, 2018), section 5
        | https://arxiv.org/abs/1805.07834

    Example:
        >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])  # 01|23 and 02|13
        >>> d = TreeFrequency.from_trees(trees[[0, 1, 0, 0]])
        >>> d.log_prob(trees).exp()
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": torch_constraints.real_vector}

    def __init__(self, trees: Tensor, logits: Tensor | None = None, validate_args: bool | None = None) -> None:
        if trees.dim() != 2 or trees.shape[1] < 3 or not len(trees) or trees.dtype != torch.int64:
            raise ValueError(
                f"trees has shape {tuple(trees.shape)} of {trees.dtype}: give one or more parent vectors, int64 (K, N)"
            )
        if logits is None:
            logits = torch.zeros(len(trees), device=trees.device)
        if not logits.dim() or logits.shape[-1] != len(trees):
            raise ValueError(f"logits has shape {tuple(logits.shape)} but there are {len(trees)} trees: one for each")
        if len(distinct_rows(trees)[0]) < len(trees):
            raise ValueError("trees holds a topology twice: use from_trees, which adds up the weights")
        self.trees = trees
        self.logits = logits
        super().__init__(logits.shape[:-1], trees.shape[1:], validate_args=validate_args)
        if self._validate_args:
            _check(trees, logits)

    @classmethod
    def from_trees(cls, trees: TreeSet | Tensor, weights: Tensor | Sequence[float] | None = None) -> TreeFrequency:
        """Take the relative frequencies of a sample of trees; equal topologies are added up.

        Args:
            trees: a :class:`.TreeSet`, or canonical parent vectors ``(T, N)``.
            weights: the weights of the trees, ``(T,)``; those of the set, or equal ones, if None.

        Raises:
            ValueError: if there are no trees, they are not canonical, or the weights are negative or all zero.
        """
        given = trees_and_weights(trees, weights)
        distinct, number = distinct_rows(given.parents)
        share = given.weights.new_zeros(len(distinct)).index_add(0, number, given.weights)
        return cls(distinct, share.log())

    @classmethod
    def infer_shapes(cls, **arg_shapes: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Raise a NotImplementedError: the event shape is that of the trees, which no shape tells."""
        raise NotImplementedError("the event shape of a TreeFrequency follows from its trees, not from logits")

    @property
    def support(self) -> Any:
        """Canonical parent vectors."""
        return constraints.tree_topology

    @lazy_property
    def log_theta(self) -> Tensor:
        """The log-probability of each tree, ``batch_shape + (K,)``."""
        return self.logits.log_softmax(-1)

    @lazy_property
    def _table(self) -> tuple[KeyTable, Tensor]:
        seed = 0
        while True:
            codes = clade_codes(self.trees.shape[1], seed, self.trees.device)
            keys = (self.trees * codes).sum(-1)
            if len(keys.unique()) == len(keys):
                return key_table(keys), codes
            seed += 1

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> TreeFrequency:
        """Return the same distribution with its logits broadcast to ``batch_shape``."""
        new = self._get_checked_instance(TreeFrequency, _instance)
        new.__dict__.update({k: v for k, v in self.__dict__.items() if k != "log_theta"})
        new.logits = self.logits.expand(torch.Size(batch_shape) + self.logits.shape[-1:])
        new._batch_shape = torch.Size(batch_shape)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of trees ``(..., N)``, -inf for trees not in the list."""
        if self._validate_args:
            self._validate_sample(value)
        table, codes = self._table
        row = find_keys(table, (value * codes).sum(-1))
        listed = self.trees[row.clamp_max(len(self.trees) - 1)]
        row = row.masked_fill((listed != value).any(-1), len(self.trees))
        log_theta = torch.cat([self.log_theta, self.log_theta.new_full((*self.batch_shape, 1), -math.inf)], -1)
        shape = broadcast_shapes(row.shape, self.batch_shape)
        return log_theta.expand(*shape, -1).gather(-1, row.expand(shape).unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw trees, int64 ``sample_shape + batch_shape + (N,)``."""
        return self.trees[torch.distributions.Categorical(logits=self.log_theta).sample(torch.Size(sample_shape))]

    @torch.no_grad()
    def sample_without_replacement(self, k: int) -> DistinctDraws:
        """Draw ``k`` distinct trees one after the other, all of them if there are no more: :class:`DistinctDraws`."""
        draw = gumbel_topk(self.log_theta, min(k, len(self.trees)))
        choices = SequenceSet(draw.index.unsqueeze(-1), draw.log_p, draw.log_rest)
        return distinct_values(choices, lambda choice: self.trees[choice.squeeze(-1)])

    has_enumerate_support = True

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return every tree, ``(K,) + batch_shape + (N,)``, batch dims being 1 unless ``expand``."""
        values = self.trees.reshape(-1, *(1,) * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    def num_trees(self) -> int:
        """Return the number of trees in the list."""
        return len(self.trees)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, ``batch_shape``."""
        return torch.special.entr(self.log_theta.exp()).sum(-1)

    def _ranking(self, log_theta: Tensor, limit: int) -> Ranking:
        return Ranking(ranked_list(self.trees, log_theta))  # no search, so no limit

    def map_tree(self) -> Tensor:
        """Return the most probable tree, ``batch_shape + (N,)``."""
        return self.trees[self.log_theta.argmax(-1)]

    @property
    def mode(self) -> Tensor:
        """The most probable tree, see :meth:`map_tree`."""
        return self.map_tree()

    @torch.no_grad()
    def max_clade_credibility_tree(self) -> Tensor:
        """Return the tree of maximum clade credibility, ``batch_shape + (N,)``.

        Of the trees of the list that have a positive probability it has the largest product of the frequencies of its
        clades; of its splits, for unrooted trees. Of several such trees it is the first.

        Example:
            >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])  # 01|23 and 02|13
            >>> TreeFrequency.from_trees(trees, weights=[0.2, 0.8]).max_clade_credibility_tree()
            tensor([-1,  5,  4,  5,  0,  4])
        """
        rooted = self.trees.shape[1] % 2 == 1
        num_taxa = self.trees.shape[1] // 2 + 1
        words = split_words(self.trees, rooted)[:, num_taxa:]
        clades, number = distinct_rows(words.flatten(0, 1))
        theta = self.log_theta.exp()
        each = theta.repeat_interleave(words.shape[1], -1)
        marginal = theta.new_zeros(*self.batch_shape, len(clades)).index_add(-1, number, each)
        score = marginal.log()[..., number].unflatten(-1, words.shape[:2]).sum(-1)
        return self.trees[score.masked_fill(theta == 0, -math.inf).argmax(-1)]

    def __repr__(self) -> str:
        shape = tuple(self.batch_shape)
        return f"TreeFrequency(batch_shape: {shape}, trees={len(self.trees)}, nodes={self.event_shape[-1]})"


def _check(trees: Tensor, logits: Tensor) -> None:
    canonical = constraints.tree_topology.check(trees)
    if not bool(canonical.all()):
        row = int((~canonical).nonzero()[0, 0])
        raise ValueError(f"trees[{row}] = {trees[row].tolist()} is not in canonical form: see phylo.canonicalize")
    largest = logits.amax(-1)
    if bool((largest.abs() == math.inf).any()):
        raise ValueError("logits are finite, or -inf for a tree that is never drawn, but not all of them")
