"""Fit the conditional probabilities of splits to a sample of trees."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_ext.ops.segments import segment_log_softmax, segment_sum
from pyro_ext.ops.subsplits.graph import SplitGraph
from pyro_ext.ops.subsplits.rootings import TreeIndex, expected_counts
from pyro_ext.phylo.support import SubsplitSupport
from pyro_ext.phylo.support_trees import TreesAndWeights, trees_and_weights
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.utils.checks import nonnegative_number, one_of, positive_int

__all__ = ["METHODS", "PRIORS", "FitHistory", "count_splits", "fit_log_theta"]

METHODS = ("simple_average", "em", "maximum_likelihood")
PRIORS = ("uniform", "empirical")
_CHUNK = 1 << 19  # subsplits of trees in one go


class FitHistory(NamedTuple):
    """How a fit went.

    Attributes:
        log_likelihood: the weighted mean log-likelihood before each update, float64 ``(iterations,)``; of the result
            itself for the methods without iterations, then ``(1,)``.
        objective: the same with the log-prior, up to a constant.
        converged: whether the last increase was below the tolerance.
    """

    log_likelihood: Tensor
    objective: Tensor
    converged: bool

    @property
    def num_iterations(self) -> int:
        """The number of updates."""
        return len(self.objective)

    def __repr__(self) -> str:
        ended = "converged" if self.converged else "not converged"
        return f"FitHistory({self.num_iterations} iterations, {ended}, log_likelihood={self.log_likelihood[-1]:.6f})"


def fit_log_theta(
    trees: TreeSet | Tensor,
    weights: Tensor | Sequence[float] | None,
    method: str,
    *,
    support: SubsplitSupport | None,
    alpha: float,
    prior: str,
    max_iterations: int,
    min_iterations: int,
    tolerance: float,
    progress: bool | None = None,
) -> tuple[SubsplitSupport, Tensor, FitHistory]:
    """Return the support, the log-probabilities of its splits, float64 ``(M,)``, and how the fit went.

    The arguments are those of :meth:`.SubsplitBayesianNetwork.fit`.
    """
    _check_options(method, alpha, prior, max_iterations, tolerance)
    given = trees_and_weights(trees, weights, taxa=support.taxa if support and isinstance(trees, Tensor) else None)
    if (given.rooted and method == "em") or (not given.rooted and method == "maximum_likelihood"):
        raise ValueError(
            f"method={method!r} is not for {'' if given.rooted else 'un'}rooted trees: "
            f"use {'maximum_likelihood' if given.rooted else 'em'!r}"
            + (", or forget their roots by reading them with rooted=False" if given.rooted else "")
        )
    if support is None:
        support = SubsplitSupport.from_trees(given.parents, taxa=given.taxa)
    sample = _Sample(support, given)
    # both give the same conditional frequencies, but published pseudo-counts, and the start, rest on the second
    counts = sample.simple_average() if prior == "empirical" else sample.once_per_tree()
    pseudo_counts = _pseudo_counts(support, counts, alpha, prior)
    log_theta = _normalised(counts + pseudo_counts, support.graph)
    if method == "em":
        with _bar(max_iterations, progress) as bar:
            return support, *_maximise(sample, log_theta, pseudo_counts, max_iterations, min_iterations, tolerance, bar)
    log_likelihood = sample.counts(log_theta)[1].unsqueeze(0)
    return support, log_theta, FitHistory(log_likelihood, log_likelihood, True)


def count_splits(
    trees: TreeSet | Tensor, weights: Tensor | Sequence[float] | None, sisters: bool
) -> tuple[SubsplitSupport, Tensor]:
    """Return the support of trees and the log of the frequencies of the splits in each context, float64 ``(M,)``.

    Every tree counts once for each of its splits, so sisters may be told apart only if the trees are rooted.
    """
    given = trees_and_weights(trees, weights)
    support = SubsplitSupport.from_trees(given.parents, taxa=given.taxa, sisters=sisters)
    return support, _normalised(_Sample(support, given).once_per_tree(), support.graph)


def _check_options(method: str, alpha: float, prior: str, max_iterations: int, tolerance: float) -> None:
    one_of("method", method, METHODS)
    one_of("prior", prior, PRIORS)
    nonnegative_number("alpha", alpha)
    if alpha and method == "simple_average":
        raise ValueError(f"alpha={alpha} means nothing to the simple average: use em or maximum_likelihood")
    positive_int("max_iterations", max_iterations)
    nonnegative_number("tolerance", tolerance)


class _Sample:
    """Trees looked up in a support, with their weights, in chunks."""

    def __init__(self, support: SubsplitSupport, given: TreesAndWeights) -> None:
        if given.taxa != support.taxa or given.rooted != support.rooted:
            raise ValueError(
                f"trees are {'' if given.rooted else 'un'}rooted over {len(given.taxa)} taxa, but the support is "
                f"{support!r}, perhaps with other names: fit to trees of the same kind"
            )
        self.support = support
        step = max(1, _CHUNK // (9 * support.num_taxa))
        parents = given.parents.to(support.device).split(step)
        self.weights = given.weights.to(support.device).split(step)
        self.index = [support.index(chunk) for chunk in parents]
        inside = torch.cat([support.contains(chunk) for chunk in parents])
        if not bool(inside.all()):
            raise ValueError(f"support lacks subsplits of {int((~inside).sum())} of {len(inside)} trees: see union")

    def counts(self, log_theta: Tensor, uniform: bool = False) -> tuple[Tensor, Tensor]:
        """Return the expected counts of all splits, and the mean log-likelihood, see :func:`expected_counts`."""
        parts = zip(self.index, self.weights, strict=True)
        if self.support.rooted:
            chunks = [_plain_counts(log_theta, index, weights) for index, weights in parts]
        else:
            chunks = [expected_counts(log_theta, index, weights, uniform) for index, weights in parts]
        counts, total = (torch.stack(part).sum(0) for part in zip(*chunks, strict=True))
        return counts, total

    def simple_average(self) -> Tensor:
        """Return the counts with all rootings equal."""
        zeros = torch.zeros(self.support.num_parameters, dtype=torch.float64, device=self.support.device)
        return self.counts(zeros, uniform=True)[0]

    def once_per_tree(self) -> Tensor:
        """Return the weight of the trees that have a split in any rooting, over the number of rootings."""
        num = self.support.num_parameters
        counts = torch.zeros(num + 2, dtype=torch.float64, device=self.support.device)
        for index, weights in zip(self.index, self.weights, strict=True):
            each = weights.unsqueeze(-1).expand(index.position.shape)
            counts.index_add_(0, index.position.reshape(-1), each.reshape(-1))
        return counts[:num] / (1 if self.support.rooted else 2 * self.support.num_taxa - 3)


def _plain_counts(log_theta: Tensor, index: TreeIndex, weights: Tensor) -> tuple[Tensor, Tensor]:
    each = weights.unsqueeze(-1).expand(index.position.shape).reshape(-1)
    position = index.position.reshape(-1)
    counts = torch.zeros_like(log_theta).index_add(0, position, each)
    return counts, (each * log_theta.index_select(0, position)).sum()


def _pseudo_counts(support: SubsplitSupport, counts: Tensor, alpha: float, prior: str) -> Tensor:
    if prior == "empirical":
        return alpha * counts
    graph, roots = support.graph, support.num_rootsplits
    total = segment_sum(counts, graph.segment, graph.num_contexts)
    spread = (total / graph.start.diff()).index_select(0, graph.segment)
    return alpha * torch.cat([counts[:roots], spread[roots:]])


def _maximise(
    sample: _Sample,
    log_theta: Tensor,
    pseudo_counts: Tensor,
    max_iterations: int,
    min_iterations: int,
    tolerance: float,
    bar: tqdm,
) -> tuple[Tensor, FitHistory]:
    """Iterate expectation and maximisation; one more update follows the last increase."""
    graph = sample.support.graph
    log_likelihood: list[Tensor] = []
    objective: list[Tensor] = []
    converged = False
    while len(objective) < max_iterations and not converged:
        counts, total = sample.counts(log_theta)
        log_likelihood.append(total)
        objective.append(total + _log_prior(log_theta, pseudo_counts))
        log_theta = _normalised(counts + pseudo_counts, graph, log_theta)
        bar.update()
        if len(objective) >= max(2, min_iterations):
            converged = bool((objective[-1] - objective[-2]).abs() < tolerance)
    return log_theta, FitHistory(torch.stack(log_likelihood), torch.stack(objective), converged)


def _bar(max_iterations: int, progress: bool | None) -> tqdm:
    """Return a bar of the updates; by default on a terminal, once they have taken more than two seconds."""
    delay = 2.0 if progress is None else 0.0
    shown = sys.stderr.isatty() if progress is None else progress
    return tqdm(total=max_iterations, desc="EM", unit="update", delay=delay, disable=not shown, leave=False)


def _log_prior(log_theta: Tensor, pseudo_counts: Tensor) -> Tensor:
    return (pseudo_counts * log_theta.masked_fill(pseudo_counts == 0, 0)).sum()


def _normalised(counts: Tensor, graph: SplitGraph, before: Tensor | None = None) -> Tensor:
    """Return log-probabilities proportional to counts; those before, or equal ones, where a context has none."""
    total = segment_sum(counts, graph.segment, graph.num_contexts).index_select(0, graph.segment)
    if before is None:
        before = segment_log_softmax(torch.zeros_like(counts), graph.segment, graph.num_contexts)
    return torch.where(total > 0, counts.log() - total.log(), before)
