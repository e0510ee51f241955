"""Scores that compare estimated probabilities of trees with those of a long run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from pyro_ext.phylo import TreeSet, asdsf
from pyro_ext.phylo.diagnostics import split_frequencies

__all__ = ["Gold", "Scores"]


@dataclass(frozen=True)
class Scores:
    """The scores of a method, compared with the long run.

    Attributes:
        kl: the KL divergence between the probabilities of trees in the run and the estimated ones, in nats.
        rmsd: the root mean square difference between split frequencies.
        asdsf: the average standard deviation of split frequencies between the two sets of probabilities.
        bias: the mean error of the log-evidence of a tree; its value in the run counts as exact.
        spread: the standard deviation over trees of the error of the log-evidence.
    """

    kl: float
    rmsd: float
    asdsf: float
    bias: float
    spread: float


@dataclass(frozen=True)
class Gold:
    r"""Trees with their probabilities in a long run, from which the evidence of each tree follows.

    .. math::  \log p(D \mid \tau) = \log p(\tau \mid D) + \log p(D) + \log (2n - 5)!!

    Args:
        trees: the trees, the most probable first; their weights are their probabilities in the run, not rescaled.
        log_evidence: the log-evidence :math:`\log p(D)` of all trees together.
    """

    trees: TreeSet
    log_evidence: float

    def __post_init__(self) -> None:
        if self.trees.weights is None:
            raise ValueError("trees must have weights, their probabilities in the long run")

    def by_tree(self) -> Tensor:
        """Return the log-evidence of each tree, ``(T,)``."""
        count = sum(math.log(k) for k in range(2 * self.trees.num_taxa - 5, 1, -2))
        assert self.trees.weights is not None
        return self.trees.weights.log() + self.log_evidence + count

    def scores(self, log_evidence: Tensor) -> Scores:
        """Return the scores of estimates for the first T trees, whose probabilities are rescaled to sum to 1.

        Args:
            log_evidence: the estimated log-evidence of each of the first T trees, shape ``(T,)``.
        """
        trees = self.trees[: len(log_evidence)]
        log_p, log_q = trees.probabilities().log(), log_evidence.log_softmax(0)
        estimated = replace(trees, weights=log_q.exp(), validate=False)
        f, g = split_frequencies(trees, estimated).frequencies
        error = log_evidence - self.by_tree()[: len(log_evidence)]
        return Scores(
            kl=float((log_p.exp() * (log_p - log_q)).sum()),
            rmsd=float((f - g).square().mean().sqrt()),
            asdsf=float(asdsf(trees, estimated)),
            bias=float(error.mean()),
            spread=float(error.std()) if len(error) > 1 else math.nan,
        )
