"""Conditional clade distributions: distributions of trees whose splits depend on the clade alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_ext.distributions.trees._splits import SplitDistribution
from pyro_ext.distributions.trees.fitting import count_splits
from pyro_ext.ops.subsplits.assembly import grown_trees
from pyro_ext.phylo.support import SubsplitSupport
from pyro_ext.phylo.trees import TreeSet

__all__ = ["ConditionalCladeDistribution"]


class ConditionalCladeDistribution(SplitDistribution):
    r"""Trees whose splits are drawn from the top down, each given only the clade that it parts.

    .. math::  p(T) = \prod_{W \in T} \frac{m(\text{split of } W)}{m(W)}, \qquad
               p(T^u) = \frac{\prod_v m(\text{parts at } v)}{\prod_e m(\text{split at } e)},

    over the clades of a rooted tree, and over the internal nodes and edges of an unrooted one, with :math:`m` the
    frequencies in a sample. The unrooted distribution is that of trees rooted at any one of the taxa; here it is the
    first. Entropy and most probable tree are exact for both.

    Args:
        support: the splits of clades, built with ``sisters=False``.
        logits: the log-probabilities of the splits of each clade up to a constant, ``batch_shape + (parameters,)``;
            zeros if None.

    References:
        | Guided tree topology proposals for Bayesian phylogenetic inference (Höhna and Drummond, 2012)
        | https://doi.org/10.1093/sysbio/syr074
        | The estimation of tree posterior probabilities using conditional clade probability distributions
        | (Larget, 2013), https://doi.org/10.1093/sysbio/syt014

    Example:
        >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])  # 01|23 and 02|13
        >>> ConditionalCladeDistribution.from_trees(trees, weights=[0.8, 0.2]).log_prob(trees).exp()
        tensor([0.8000, 0.2000], dtype=torch.float64)
    """

    def __init__(
        self, support: SubsplitSupport, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        if support.sisters:
            raise ValueError(f"{support!r} tells contexts apart by sisters: build it with sisters=False")
        super().__init__(support, logits, 2 * support.num_taxa - (1 if support.rooted else 2), validate_args)

    @classmethod
    def from_trees(
        cls, trees: TreeSet | Tensor, weights: Tensor | Sequence[float] | None = None
    ) -> ConditionalCladeDistribution:
        """Take the frequencies in a sample of trees.

        Args:
            trees: a :class:`.TreeSet`, or canonical parent vectors ``(T, N)``.
            weights: the weights of the trees, ``(T,)``; those of the set, or equal ones, if None.

        Raises:
            ValueError: if there are no trees, they are not canonical, or the weights are negative or all zero.
        """
        support, log_theta = count_splits(trees, weights, sisters=False)
        return cls(support, log_theta)

    def _trees(self, choices: Tensor) -> Tensor:
        return grown_trees(choices, self.graph)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of trees ``(..., N)``, -inf outside the support."""
        terms, _, shape = self._terms(value)
        return terms.sum(-1).view(shape)
