"""Subsplit Bayesian networks: distributions of trees whose splits share their conditional probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_ext.distributions.trees._entropy import EntropyBounds, unrooted_entropy_bounds
from pyro_ext.distributions.trees._splits import SplitDistribution
from pyro_ext.distributions.trees.fitting import FitHistory, fit_log_theta
from pyro_ext.ops.subsplits.assembly import grown_trees, unrooted_trees
from pyro_ext.ops.subsplits.rootings import log_prob_rootings, log_sum
from pyro_ext.ops.subsplits.rows import distinct_rows
from pyro_ext.phylo.support import ARRAYS, SubsplitSupport
from pyro_ext.phylo.support_files import named, read_arrays, write_arrays
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.utils.checks import positive_int

__all__ = ["SubsplitBayesianNetwork"]

_CHUNK = 1 << 19  # subsplits of trees looked up at a time


class SubsplitBayesianNetwork(SplitDistribution):
    r"""Trees whose splits are drawn from the root down, each given the clade it parts and that clade's sister.

    With a probability :math:`\theta` for every rootsplit, and for every subsplit :math:`s` given its parent
    :math:`t`, a rooted tree, and an unrooted one with edges :math:`E`, have probability

    .. math::  p(T) = \theta_{\text{root}(T)} \prod_{t \to s \in T} \theta_{s|t}, \qquad
               p(T^u) = \sum_{e \in E} p(T \text{ rooted on } e).

    A pair of subsplits has the same probability wherever in a tree it occurs, so trees never seen get theirs from
    the parts they share with others. Values are canonical parent vectors, equal for equal topologies. All
    2n - 3 rootings of an unrooted tree are summed in O(n).

    Args:
        support: the subsplits that have a parameter; trees of others have probability zero.
        logits: the log-probabilities of the splits of each context up to a constant, -inf for none,
            ``batch_shape + (parameters,)``; zeros if None.
        rooted: whether values are rooted trees; as the support was made if None. The distribution of unrooted
            trees is that of the rooted ones without their roots.

    References:
        | Generalizing tree probability estimation via Bayesian networks (Zhang and Matsen, 2018)
        | https://arxiv.org/abs/1805.07834
        | Variational Bayesian phylogenetic inference (Zhang and Matsen, 2019)
        | https://openreview.net/forum?id=SJVmjjR9FX

    Example:
        >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])  # 01|23 and 02|13
        >>> d = SubsplitBayesianNetwork.from_trees(trees, weights=[0.8, 0.2])
        >>> d.log_prob(trees).exp()
        tensor([0.8000, 0.2000], dtype=torch.float64)
        >>> d.sample((3,)).shape
        torch.Size([3, 6])
    """

    def __init__(
        self,
        support: SubsplitSupport,
        logits: Tensor | None = None,
        rooted: bool | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not support.sisters:
            raise ValueError(f"{support!r} does not tell contexts apart by sisters: build it with sisters=True")
        rooted = support.rooted if rooted is None else rooted
        super().__init__(support, logits, 2 * support.num_taxa - (1 if rooted else 2), validate_args)

    @classmethod
    def from_trees(
        cls,
        trees: TreeSet | Tensor,
        weights: Tensor | Sequence[float] | None = None,
        **options: Any,
    ) -> SubsplitBayesianNetwork:
        """Fit a network to trees, by default by the simple average; see :meth:`fit` for the arguments."""
        return cls.fit(trees, weights, **options)[0]

    @classmethod
    def fit(
        cls,
        trees: TreeSet | Tensor,
        weights: Tensor | Sequence[float] | None = None,
        method: str = "simple_average",
        *,
        support: SubsplitSupport | None = None,
        alpha: float = 0.0,
        prior: str = "uniform",
        max_iterations: int = 1000,
        min_iterations: int = 52,
        tolerance: float = 1e-5,
        progress: bool | None = None,
    ) -> tuple[SubsplitBayesianNetwork, FitHistory]:
        r"""Fit a network to a sample of trees.

        With :math:`m_s` the weight of a pair of subsplits, summed over the trees and averaged over their rootings,
        :math:`\theta_{s|t}` is :math:`m_s` over its sum in the context :math:`t`. The methods differ in how rootings
        are averaged:

        * ``"simple_average"``: all are equal;
        * ``"em"``: by their probabilities, estimated by expectation maximisation from the simple average on,
          pseudo-counts included; the maximum of the likelihood of unrooted trees, or with ``alpha`` of it times a
          Dirichlet prior;
        * ``"maximum_likelihood"``: rooted trees have one rooting, so this needs no iteration.

        Args:
            trees: a :class:`.TreeSet`, or canonical parent vectors ``(T, N)``.
            weights: the weights of the trees, ``(T,)``; those of the set, or equal ones, if None.
            method: ``"simple_average"``, ``"em"`` or ``"maximum_likelihood"``.
            support: a support that holds all the trees, and perhaps others; made from the trees if None.
            alpha: the strength of the Dirichlet prior, at least 0; 0 for none.
            prior: how the pseudo-counts of the prior are spread: ``"uniform"``, :math:`\alpha \tilde m_t / K_t` for
                each of the :math:`K_t` splits of a context, :math:`\tilde m_t` being the sum of the weights of the
                trees that have each of them in any rooting, over 2n - 3; or ``"empirical"``, :math:`\alpha \tilde m_s`
                with the simple average's counts. Published tables use the first, the paper's formula is the second.
            max_iterations: the largest number of updates of expectation maximisation.
            min_iterations: the smallest number of updates of expectation maximisation.
            tolerance: the smallest increase of the mean log-likelihood, prior included, that is worth another
                update.
            progress: whether to show a bar of the updates; by default on a terminal, for long fits.

        Returns:
            The network, in float64, and the :class:`FitHistory`.

        Raises:
            ValueError: if an argument is out of range or does not fit the kind of trees, or the trees are not all in
                the support.

        References:
            | Generalizing tree probability estimation via Bayesian networks (Zhang and Matsen, 2018), section 4
            | https://arxiv.org/abs/1805.07834
        """
        support, log_theta, history = fit_log_theta(
            trees,
            weights,
            method,
            support=support,
            alpha=alpha,
            prior=prior,
            max_iterations=max_iterations,
            min_iterations=min_iterations,
            tolerance=tolerance,
            progress=progress,
        )
        return cls(support, log_theta), history

    @property
    def _one_rooting(self) -> bool:
        return self._rooted

    def _trees(self, choices: Tensor) -> Tensor:
        if self._rooted:
            return grown_trees(choices, self.graph)
        return unrooted_trees(choices, self.graph).parents

    def _listed(self) -> Tensor:
        trees = super()._listed()
        return trees if self._rooted else distinct_rows(trees)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of trees ``(..., N)``, -inf outside the support."""
        terms, relations, shape = self._terms(value)
        if self._rooted:
            return terms.sum(-1).view(shape)
        return log_sum(log_prob_rootings(terms, relations)).view(shape)

    def entropy(self) -> Tensor:
        """Return the exact entropy in nats, ``batch_shape``.

        For rooted trees it takes one pass over the splits. That of unrooted trees has no closed form: all trees of the
        support are listed, and their probabilities summed.

        Raises:
            NotImplementedError: if the unrooted trees are too many to list, see :attr:`has_enumerate_support`.

        Example:
            >>> from pyro_ext.phylo import all_trees
            >>> d = SubsplitBayesianNetwork.from_trees(all_trees(5))
            >>> d.entropy(), d.rooted_network().entropy()
            (tensor(2.7081, dtype=torch.float64), tensor(4.6540, dtype=torch.float64))
        """
        if self._rooted:
            return super().entropy()
        if not self.has_enumerate_support:
            raise NotImplementedError(
                f"the entropy of unrooted trees is a sum over all of them, and {self!r} has too many to list: "
                "see entropy_bounds, or ask rooted_network() for that of rooted trees"
            )
        ones, trees = (1,) * len(self.batch_shape), self._listed()
        parts = trees.split(max(1, _CHUNK // (9 * trees.shape[1])))
        log_prob = torch.cat([self.log_prob(part.view(len(part), *ones, -1)) for part in parts])
        possible = log_prob > -math.inf
        return -torch.where(possible, log_prob.exp() * log_prob.masked_fill(~possible, 0), 0).sum(0)

    @torch.no_grad()
    def entropy_bounds(self, limit: int = 20_000) -> EntropyBounds:
        r"""Return bounds of the entropy, exact where all trees can be listed, close where the most probable ones can.

        .. math::  H(T^u) = H(T) - \sum_{T^u} p(T^u) H(\text{root} \mid T^u).

        The entropy of the rooted tree T is exact, and so is that of the root given any of the trees found among the
        most probable rooted ones. For all others, of probability m together, it lies between 0 and the log of the
        number of places, so the bounds differ by at most :math:`m \log(2n - 3)`. For rooted trees they are equal.

        Args:
            limit: the largest number of rooted trees that are listed, by falling probability.

        Returns:
            :class:`EntropyBounds`.

        Raises:
            ValueError: if ``limit`` is not an integer of at least 1.

        Example:
            >>> from pyro_ext.phylo import all_trees
            >>> d = SubsplitBayesianNetwork.from_trees(all_trees(5), weights=[2.0**-i for i in range(15)])
            >>> d.entropy()
            tensor(1.3859, dtype=torch.float64)
            >>> d.entropy_bounds(limit=20)
            EntropyBounds(lower=tensor(1.3859, dtype=torch.float64), upper=tensor(1.6291, dtype=torch.float64))
            >>> d.entropy_bounds(limit=60).upper
            tensor(1.3897, dtype=torch.float64)
        """
        positive_int("limit", limit)
        exact = self._in_float64()
        log_theta, row = exact._rows()
        if self._rooted:
            both = exact.entropy().to(self.logits)
            return EntropyBounds(both, both)
        support = self.subsplits.to("cpu")
        pairs = [unrooted_entropy_bounds(each.cpu(), support, limit) for each in log_theta]
        bounds = torch.tensor(pairs, dtype=torch.float64, device="cpu").to(self.logits)[row]
        return EntropyBounds(*bounds.unbind(-1))

    def log_prob_rootings(self, value: Tensor) -> Tensor:
        """Return the log-probability of every rooting of unrooted trees ``(..., 2n - 2)``.

        Returns:
            ``(..., 2n - 3)``: entry ``i - 1`` is for a root on the edge above node ``i``.

        Raises:
            NotImplementedError: if values are rooted.
        """
        if self._rooted:
            raise NotImplementedError("a rooted tree has one rooting: use log_prob, or a network with rooted=False")
        terms, relations, shape = self._terms(value)
        return log_prob_rootings(terms, relations).view(*shape, 2 * self.graph.num_taxa - 3)

    def rooted_network(self) -> SubsplitBayesianNetwork:
        """Return the network of the rooted trees from which unrooted ones are drawn; itself if values are rooted.

        Its entropy and its divergence from another are exact.
        """
        return self if self._rooted else SubsplitBayesianNetwork(self.subsplits, self.logits, rooted=True)

    def save(self, path: str | Path) -> None:
        """Write support and logits to an ``.npz`` file, whole or not at all."""
        logits = self.logits.detach().cpu().numpy()
        write_arrays(path, {**self.subsplits.to_arrays(), "logits": logits, "rooted_values": np.array(self._rooted)})

    @classmethod
    def load(cls, path: str | Path) -> SubsplitBayesianNetwork:
        """Read a network from a file.

        Raises:
            ValueError: if there is none in the file.
        """
        arrays = read_arrays(path, [*ARRAYS, "logits"])
        rooted = bool(arrays.get("rooted_values", arrays["rooted"]).all())
        try:
            logits = torch.from_numpy(arrays["logits"])
            return cls(SubsplitSupport.from_arrays(arrays), logits, rooted, validate_args=True)
        except (ValueError, TypeError) as error:
            raise named(error, path) from error
