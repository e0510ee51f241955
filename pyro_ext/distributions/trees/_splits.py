"""The base of the distributions of trees made of conditional splits: parameters, draws, enumeration, summaries."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints as torch_constraints
from torch.distributions.utils import lazy_property

from pyro_ext.distributions import constraints
from pyro_ext.distributions.distinct import DistinctDraws, distinct_values
from pyro_ext.distributions.trees._best_trees import RanksTrees
from pyro_ext.distributions.trees._clades import (
    CladeMarginals,
    clade_credibility,
    clade_marginals,
    clade_splits,
    logits_given,
    subsplit_splits,
)
from pyro_ext.distributions.trees._last_index import LastIndex
from pyro_ext.distributions.trees._ranking import Ranking, ranked_rooted, ranked_unrooted
from pyro_ext.distributions.trees._without_replacement import distinct_topologies
from pyro_ext.ops.segments import segment_log_softmax, segment_max
from pyro_ext.ops.subsplits.assembly import grown_trees
from pyro_ext.ops.subsplits.beam import distinct_choices
from pyro_ext.ops.subsplits.draws import draw_choices
from pyro_ext.ops.subsplits.graph import SplitGraph, row_choices
from pyro_ext.ops.subsplits.programs import best_choices, count_trees, entropy
from pyro_ext.ops.subsplits.relations import Relations, relations_of
from pyro_ext.ops.subsplits.rootings import TreeIndex, with_constants
from pyro_ext.phylo.support import SubsplitSupport
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.shapes import broadcast_shapes, compact

__all__ = ["SplitDistribution"]

_MOST_ENTRIES = 1 << 22  # of the trees listed; complete supports of 8 taxa and less


class SplitDistribution(RanksTrees):
    """A distribution of trees whose splits are drawn from the root down, each from the softmax of its context."""

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": torch_constraints.real_vector}

    def __init__(
        self, support: SubsplitSupport, logits: Tensor | None, num_nodes: int, validate_args: bool | None
    ) -> None:
        if logits is None:
            logits = torch.zeros(support.num_parameters, device=support.device)
        if not logits.dim() or logits.shape[-1] != support.num_parameters or not logits.is_floating_point():
            raise ValueError(
                f"logits has shape {tuple(logits.shape)} of {logits.dtype} but {support!r} has "
                f"{support.num_parameters} parameters: give floating point numbers, batch_shape + (parameters,)"
            )
        if logits.device != support.device:
            raise ValueError(
                f"logits is on {logits.device} but the support on {support.device}: use support.to(logits.device)"
            )
        self.subsplits = support
        self.logits = logits
        self._index = LastIndex(support, num_nodes % 2 == 1)  # one for all expanded copies
        super().__init__(logits.shape[:-1], torch.Size([num_nodes]), validate_args=validate_args)
        if self._validate_args:
            _check_logits(compact(logits), support.graph)

    @abstractmethod
    def _trees(self, choices: Tensor) -> Tensor:
        """Build trees ``(T, N)`` from their splits in preorder, ``(T, J)``."""

    @classmethod
    def infer_shapes(cls, **arg_shapes: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Raise a NotImplementedError: the event shape depends on the taxa, which no shape tells."""
        raise NotImplementedError(f"the event shape of a {cls.__name__} follows from its taxa, not from logits")

    @property
    def support(self) -> Any:
        """Canonical parent vectors."""
        return constraints.tree_topology

    @property
    def graph(self) -> SplitGraph:
        """The contexts and their splits."""
        return self.subsplits.graph

    @lazy_property
    def log_theta(self) -> Tensor:
        """The log-probability of each split given its context, ``batch_shape + (parameters,)``."""
        small = compact(self.logits)
        log_theta = segment_log_softmax(small, self.graph.segment, self.graph.num_contexts)
        return log_theta.expand(self.logits.shape)

    def _terms(self, value: Tensor) -> tuple[Tensor, Relations, torch.Size]:
        """Return the log-probabilities of the trees' splits ``(T, L)``, their relations, and the shape of the T."""
        if self._validate_args:
            self._validate_sample(value)
        shape = broadcast_shapes(value.shape[:-1], self.batch_shape)
        log_theta, row = self._rows()
        position, relations = self._index(value)
        if value.shape[:-1] != shape:
            position = position.view(*value.shape[:-1], -1).expand(*shape, -1).reshape(-1, position.shape[-1])
            relations = relations_of(value.expand(*shape, -1).reshape(-1, value.shape[-1]), self.graph.num_taxa)
        if len(log_theta) > 1:
            position = position + (row * (log_theta.shape[-1] + 2)).expand(shape).reshape(-1, 1)
        table = with_constants(log_theta).reshape(-1)
        return table.index_select(0, position.reshape(-1)).view_as(position), relations, shape

    def index(self, trees: Tensor) -> TreeIndex:
        """Return where the subsplits of trees ``(..., N)`` are among the parameters, in one row, ``(T, L)``.

        Those of the last tensor are remembered, so a program that needs them beside ``log_prob`` pays once.
        """
        return self._index(trees)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its logits broadcast to ``batch_shape``."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new.__dict__.update({k: v for k, v in self.__dict__.items() if k != "log_theta"})
        new.logits = self.logits.expand(batch_shape + self.logits.shape[-1:])
        if "log_theta" in self.__dict__:
            new.log_theta = self.log_theta.expand(new.logits.shape)
        new._batch_shape = batch_shape
        return new

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw trees, int64 ``sample_shape + batch_shape + (N,)``."""
        log_theta, row = self._rows()
        shape = torch.Size(sample_shape) + self.batch_shape
        choices = draw_choices(log_theta, self.graph, row.expand(shape).reshape(-1))
        return self._trees(choices).reshape(shape + self.event_shape)

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the trees that the support makes are few enough to be listed."""
        size = self.subsplits.log_num_rooted_trees + math.log(self.event_shape[-1])
        return size <= math.log(_MOST_ENTRIES)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return every tree, ``(T,) + batch_shape + (N,)``, batch dims being 1 unless ``expand``.

        Raises:
            NotImplementedError: if there are too many.
        """
        values = self._listed().reshape(-1, *(1,) * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    def _listed(self) -> Tensor:
        if not self.has_enumerate_support:
            number = math.exp(min(self.subsplits.log_num_rooted_trees, 700))
            raise NotImplementedError(f"{self!r} is made of {number:.3g} rooted trees, too many to list: draw samples")
        return self._trees(self.subsplits.rooted_choices)

    @property
    def _one_rooting(self) -> bool:
        """Whether a tree comes from one sequence of splits only."""
        return True

    @property
    def _rooted(self) -> bool:
        """Whether the values are rooted trees."""
        return self.event_shape[-1] % 2 == 1

    def _require_one_rooting(self, what: str) -> None:
        if not self._one_rooting:
            raise NotImplementedError(
                f"{what} has no closed form for unrooted trees, whose probability is a sum over rootings: "
                "ask the network with rooted=True, or average over samples"
            )

    def _ranking(self, log_theta: Tensor, limit: int) -> Ranking:
        support = self.subsplits.to("cpu")
        if self._one_rooting:
            build = partial(grown_trees, graph=support.graph)
            return Ranking(ranked_rooted(log_theta, support.graph, build, limit))
        return Ranking(ranked_unrooted(log_theta, support, limit))

    def num_trees(self) -> int:
        """Return the number of trees that the support makes, whatever their probabilities.

        Raises:
            NotImplementedError: for an unrooted network too large to be listed.
        """
        return count_trees(self.graph) if self._one_rooting else len(self._listed())

    def entropy(self) -> Tensor:
        """Return the exact entropy in nats, ``batch_shape``, by one pass over the splits."""
        return entropy(self.log_theta, self.graph)

    @torch.no_grad()
    def map_tree(self) -> Tensor:
        """Return the most probable tree, ``batch_shape + (N,)``; exact, by one pass over the splits.

        For unrooted networks it is found by :meth:`most_probable_trees`.

        Raises:
            ValueError: for an unrooted network, if the search reaches its limit.
        """
        if not self._one_rooting:
            return self.most_probable_trees(1).values[0]
        best, _ = best_choices(self._rows()[0], self.graph)
        return self._tree_of_rows(best)

    @torch.no_grad()
    def max_clade_credibility_tree(self) -> Tensor:
        r"""Return the tree of maximum clade credibility, ``batch_shape + (N,)``; exact, by one pass over the splits.

        Of all trees of positive probability it has the largest product of the probabilities of its clades; of its
        splits, for unrooted trees. These are the exact ones of :meth:`clade_marginals`, not frequencies in a sample,
        and the tree need not be one of a sample. Of several such trees it is always the same one.

        References:
            | Looking for trees in the forest: summary tree from posterior samples (Heled and Bouckaert, 2013)
            | https://doi.org/10.1186/1471-2148-13-221

        Example:
            >>> from pyro_ext.distributions import SubsplitBayesianNetwork
            >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])  # 01|23 and 02|13
            >>> d = SubsplitBayesianNetwork.from_trees(trees, weights=[0.2, 0.8])
            >>> d.max_clade_credibility_tree()
            tensor([-1,  5,  4,  5,  0,  4])
        """
        score = clade_credibility(self._rows()[0], self.subsplits, self._rooted)
        return self._tree_of_rows(best_choices(score, self.graph)[0])

    def _tree_of_rows(self, best: Tensor) -> Tensor:
        """Return the tree of each element of the batch, from the split of every context in each row, ``(R, S)``."""
        row = self._rows()[1]
        trees = self._trees(row_choices(self.graph, best))
        return trees[row.reshape(-1)].reshape(self.batch_shape + self.event_shape)

    @property
    def mode(self) -> Tensor:
        """The most probable tree, see :meth:`map_tree`."""
        return self.map_tree()

    def clade_marginals(self) -> CladeMarginals:
        """Return the exact probabilities of all clades; of all splits, for unrooted trees.

        Returns:
            :class:`CladeMarginals`.
        """
        return clade_marginals(self.log_theta, self.subsplits, self._rooted)

    def given_clade(self, clade: Iterable[str | int]) -> Any:
        """Return the distribution of the trees that have a clade; unrooted, of those that split it from all other taxa.

        Args:
            clade: the names or numbers of the clade's taxa.

        Raises:
            ValueError: if a taxon is unknown, or the clade has probability zero.
        """
        clade = list(clade)
        done = clade_splits(self.subsplits, clade, self._rooted)
        return self if done is None else self._with_logits(done, f"the clade {clade}")

    def given_subsplit(self, first: Iterable[str | int], second: Iterable[str | int]) -> Any:
        """Return the distribution of the trees in which a node splits a clade into two.

        In unrooted trees the node splits the taxa into three: the two clades and all others.

        Args:
            first: names or numbers of one clade's taxa.
            second: names or numbers of the other clade's taxa.

        Raises:
            ValueError: if a taxon is unknown or in both, or the subsplit has probability zero.
        """
        first, second = list(first), list(second)
        done = subsplit_splits(self.subsplits, first, second, self._rooted)
        return self._with_logits(done, f"the subsplit {first} | {second}")

    def _with_logits(self, done: Tensor, event: str) -> Any:
        logits = logits_given(compact(self.log_theta), self.graph, done, event)
        new = self.expand(self.batch_shape)
        new.__dict__.pop("log_theta", None)
        new.logits = logits.expand(self.logits.shape)
        return new

    @torch.no_grad()
    def sample_without_replacement(self, k: int) -> DistinctDraws:
        r"""Draw ``k`` distinct trees, one after the other without replacement.

        Rooted trees come from a beam search over their splits with Gumbel noise. Unrooted ones are drawn
        independently, and the first ``k`` distinct ones kept; only where there are too few of them does a search
        take over. An unrooted tree's probability is a sum over rootings, so that search runs over rooted trees, of
        which the first with new topologies are kept. This is exact: when a new topology comes next, none of its
        rootings has been drawn yet, so it comes with probability proportional to their sum. Since a topology has
        2n - 3 rootings, a search for :math:`k (2n - 3)` rooted trees always finds ``k``, or all there are.

        Args:
            k: the number of trees.

        Returns:
            :class:`DistinctDraws`; ``values`` have shape ``(k,) + batch_shape + (N,)``, less than ``k`` where no
            element of the batch has so many.

        Raises:
            ValueError: if ``k`` is not an integer of at least 1.

        References:
            | Stochastic beams and where to find them (Kool et al., 2019)
            | https://arxiv.org/abs/1903.06059
        """
        positive_int("k", k)
        log_theta, row = self._rows()
        log_theta = log_theta[row.reshape(-1)]
        if self._one_rooting:
            draws = distinct_values(
                distinct_choices(log_theta, self.graph, k),
                lambda choices: self._trees(choices.flatten(0, 1)).view(*choices.shape[:2], -1),
            )
        else:
            draws = distinct_topologies(log_theta, self.subsplits, k)
        return DistinctDraws(
            draws.values.reshape(-1, *self.batch_shape, *self.event_shape),
            draws.log_prob.reshape(-1, *self.batch_shape).to(self.logits.dtype),
            draws.log_rest.reshape(self.batch_shape).to(self.logits.dtype),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape: {tuple(self.batch_shape)}, {self.subsplits!r})"


def _check_logits(logits: Tensor, graph: SplitGraph) -> None:
    largest = segment_max(logits, graph.segment, graph.num_contexts)
    if bool((largest == math.inf).any()):
        raise ValueError("logits holds inf: they are finite, or -inf for a split that is never made")
    if bool((largest == -math.inf).any()):
        raise ValueError("logits is -inf for all splits of some context: leave one possible, reached or not")
