"""Lists of the most probable trees of a distribution, exact: credible sets, and the credible levels of trees."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ext.distributions.trees._ranking import TIE, Ranked, Ranking
from pyro_ext.utils.checks import number_between, positive_int
from pyro_ext.utils.shapes import broadcast_shapes, compact

__all__ = ["RankedTrees", "RanksTrees", "SearchLimitError"]

_ROUNDING = 1e-12  # of a cumulative probability


class RankedTrees(NamedTuple):
    """Trees by falling probability.

    Where an element of a batch has fewer trees than others, the positions left over repeat its first one, with
    log-probability -inf.

    Attributes:
        values: the trees, int64 ``(K,) + batch_shape + (N,)``.
        log_prob: their log-probabilities, without gradient, ``(K,) + batch_shape``.
        log_rest: the log of the probability of all other trees, ``batch_shape``; -inf if there are none.
    """

    values: Tensor
    log_prob: Tensor
    log_rest: Tensor


class SearchLimitError(ValueError):
    """A search reached its limit before a list of trees was proved.

    Args:
        message: what to say.
        proved: the trees that are proved to be the most probable ones, of the element of the batch at fault.
    """

    def __init__(self, message: str, proved: RankedTrees) -> None:
        super().__init__(message)
        self.proved = proved


class RanksTrees(TorchDistribution):
    """A distribution whose trees can be listed by falling probability."""

    logits: Tensor

    @abstractmethod
    def _ranking(self, log_theta: Tensor, limit: int) -> Ranking:
        """Rank the trees of one row of ``log_theta``, float64, a search looking at ``limit`` rooted trees at most."""

    def _in_float64(self) -> Any:
        new = self.expand(self.batch_shape)
        new.__dict__.pop("log_theta", None)
        new.logits = compact(self.logits).detach().double().expand(self.logits.shape)
        return new

    def _rows(self) -> tuple[Tensor, Tensor]:
        """Return the distinct rows of ``log_theta``, ``(R, M)``, and which one each element has, ``batch_shape``."""
        small = compact(self.log_theta)
        number = torch.arange(small[..., 0].numel(), device=small.device).view(small.shape[:-1])
        return small.reshape(-1, small.shape[-1]), number.expand(self.batch_shape)

    @torch.no_grad()
    def most_probable_trees(self, k: int, *, limit: int = 500_000) -> RankedTrees:
        r"""Return the ``k`` most probable trees, by falling probability; exact, without a draw.

        Rooted trees come from a search over their splits that makes one tree after the other. An unrooted tree's
        probability is the sum over its 2n - 3 rootings: the search makes rooted trees until no tree that has not been
        seen can be among the first ``k``. That takes few rooted trees where the probabilities fall fast, and very
        many where a network spreads its probability over millions of trees of nearly the same.

        All is computed in float64, whatever the type of ``logits``. Trees of equal probability, up to a relative
        difference of 1e-10, are in the order of their parent vectors; where more than 1,000 tie with the last one,
        some of these are listed.

        Args:
            k: the number of trees.
            limit: the largest number of rooted trees that a search looks at, some 80 microseconds each.

        Returns:
            :class:`RankedTrees`, ``k`` of them or all that have a positive probability.

        Raises:
            ValueError: if ``k`` or ``limit`` is not an integer of at least 1, or ``limit`` is reached before ``k``
                trees are proved to be the most probable; this :class:`SearchLimitError` has those that are.

        References:
            | Better k-best parsing (Huang and Chiang, 2005), algorithm 3
            | https://aclanthology.org/W05-1506

        Example:
            >>> from pyro_ext.distributions import SubsplitBayesianNetwork
            >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])  # 01|23 and 02|13
            >>> best = SubsplitBayesianNetwork.from_trees(trees, weights=[0.2, 0.8]).most_probable_trees(2)
            >>> best.values.tolist(), best.log_prob.exp()
            ([[-1, 5, 4, 5, 0, 4], [-1, 4, 5, 5, 0, 4]], tensor([0.8000, 0.2000], dtype=torch.float64))
        """
        positive_int("k", k)
        lists = []
        for ranking in self._rankings(limit):
            if not ranking.extend_while(lambda r: r.num < k):
                raise self._limit_reached(ranking, limit, f"not all of the k={k} asked for: ask for no more")
            ranking.complete_ties(k)
            lists.append(self._cut(ranking, k))
        return self._joined(lists)

    @torch.no_grad()
    def credible_set(self, level: float = 0.95, *, limit: int = 500_000) -> RankedTrees:
        """Return the smallest set of trees that has at least a given probability, by falling probability; exact.

        Args:
            level: the probability, above 0 and at most 1; at 1, all trees of positive probability.
            limit: the largest number of rooted trees that a search looks at, some 80 microseconds each.

        Returns:
            :class:`RankedTrees`.

        Raises:
            ValueError: if ``level`` or ``limit`` is out of range, or ``limit`` is reached before; this
                :class:`SearchLimitError` has the trees that are proved to be in the set.

        Example:
            >>> from pyro_ext.distributions import SubsplitBayesianNetwork
            >>> from pyro_ext.phylo import all_trees
            >>> d = SubsplitBayesianNetwork.from_trees(all_trees(5), weights=[2.0**-i for i in range(15)])
            >>> best = d.credible_set(0.9)
            >>> len(best.values), best.log_prob.exp().sum()
            (4, tensor(0.9375, dtype=torch.float64))
        """
        number_between("level", level, 0.0, 1.0, "(]")
        enough = math.inf if level == 1 else level * (1 - _ROUNDING)
        lists = []
        for ranking in self._rankings(limit):
            if not ranking.extend_while(lambda r: r.mass < enough):
                raise self._limit_reached(ranking, limit, f"not all of a set of level={level:g}: ask for a lower level")
            cumulative = ranking.in_order().log_prob.exp().cumsum(0)
            size = min(int((cumulative < enough).sum()) + 1, ranking.num)
            ranking.complete_ties(size)
            lists.append(self._cut(ranking, size))
        return self._joined(lists)

    @torch.no_grad()
    def credible_level(self, value: Tensor, *, limit: int = 500_000) -> Tensor:
        """Return the probability of all trees that are at least as probable as a given one; exact.

        It is the level of the smallest credible set that has the tree and all that tie with it: near 0 for a tree that
        hardly any other is more probable than, 1 for trees of probability zero.

        Args:
            value: trees ``(..., N)``.
            limit: the largest number of rooted trees that a search looks at, some 80 microseconds each.

        Returns:
            Levels, in the shape of the trees' log-probabilities.

        Raises:
            ValueError: if ``limit`` is not an integer of at least 1, a value is no tree, or ``limit`` is reached
                before; this :class:`SearchLimitError` has the most probable trees as far as they are proved.

        Example:
            >>> from pyro_ext.distributions import SubsplitBayesianNetwork
            >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4], [-1, 5, 5, 4, 0, 4]])
            >>> d = SubsplitBayesianNetwork.from_trees(trees, weights=[0.5, 0.2, 0.3])
            >>> d.credible_level(trees)
            tensor([0.5000, 1.0000, 0.8000], dtype=torch.float64)
        """
        exact = self._in_float64()
        log_prob = exact.log_prob(value).cpu()
        shape = broadcast_shapes(value.shape[:-1], self.batch_shape)
        row = exact._rows()[1].expand(shape).cpu()
        levels = torch.ones(shape, dtype=torch.float64, device="cpu")
        for number, ranking in enumerate(self._rankings(limit)):
            here = (row == number) & (log_prob > -math.inf)
            if not bool(here.any()):
                continue
            asked = log_prob[here]
            if not ranking.extend_to(float(asked.min()) - TIE):
                raise self._limit_reached(ranking, limit, "not those given, of a level above that: ask for others")
            found = ranking.in_order().log_prob
            total = found.exp().cumsum(0)
            place = torch.searchsorted(-found, TIE - asked, right=True).clamp_min(1)
            levels[here] = total[place - 1].clamp_max(1.0)
        return levels.to(self.logits)

    def _rankings(self, limit: int) -> list[Ranking]:
        positive_int("limit", limit)
        return [self._ranking(row.cpu(), limit) for row in self._in_float64()._rows()[0]]

    def _limit_reached(self, ranking: Ranking, limit: int, remedy: str) -> SearchLimitError:
        found = f"{ranking.num:,} most probable trees" if ranking.num > 1 else "most probable tree"
        proved = f"the {found}, of probability {ranking.mass:.4g}" if ranking.num else "no tree"
        return SearchLimitError(
            f"limit={limit} rooted trees prove {proved}, {remedy}, or raise the limit",
            self._in_type([self._cut(ranking, ranking.num)], torch.Size()),
        )

    def _cut(self, ranking: Ranking, size: int) -> tuple[Ranked, float]:
        """Return the first trees, and the log of the probability of all others."""
        if not ranking.num:
            empty = torch.empty(0, dtype=torch.float64, device="cpu")
            return Ranked(empty.long().view(0, *self.event_shape), empty), 0.0
        ranked = ranking.in_order()
        kept = Ranked(*(x[:size] for x in ranked))
        if ranking.ended:
            return kept, float(ranked.log_prob[size:].logsumexp(0)) if ranking.num > size else -math.inf
        # there are more, so a sum this near to 1 has left nothing but rounding errors
        return kept, math.log(max(1.0 - float(kept.log_prob.exp().sum()), torch.finfo(torch.float64).eps))

    def _joined(self, lists: list[tuple[Ranked, float]]) -> RankedTrees:
        row = compact(self.logits)[..., 0]
        number = torch.arange(row.numel(), device="cpu").view(row.shape).expand(self.batch_shape).reshape(-1).tolist()
        return self._in_type([lists[i] for i in number], self.batch_shape)

    def _in_type(self, lists: list[tuple[Ranked, float]], batch_shape: torch.Size) -> RankedTrees:
        size = max((len(ranked.log_prob) for ranked, _ in lists), default=0)
        values = torch.empty(size, len(lists), *self.event_shape, dtype=torch.int64, device="cpu")
        log_prob = torch.full((size, len(lists)), -math.inf, dtype=torch.float64, device="cpu")
        for column, (ranked, _) in enumerate(lists):
            count = len(ranked.log_prob)
            values[:count, column], log_prob[:count, column] = ranked.parents, ranked.log_prob
            values[count:, column] = ranked.parents[:1]
        rest = torch.tensor([rest for _, rest in lists], dtype=torch.float64, device="cpu")
        return RankedTrees(
            values.view(size, *batch_shape, *self.event_shape).to(self.logits.device),
            log_prob.view(size, *batch_shape).to(self.logits),
            rest.view(batch_shape).to(self.logits),
        )
