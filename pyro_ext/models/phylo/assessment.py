"""How near a variational phylogeny has come to the posterior of trees."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_ext.distributions import SubsplitBayesianNetwork, tree_kl
from pyro_ext.models.phylo.annealing import without_annealing
from pyro_ext.models.phylo.variational import VariationalPhylogeny
from pyro_ext.phylo import TreeSet, write_trees
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["FLOOR", "Assessment"]

FLOOR = 2.220446e-16
"""The least probability a tree is taken to have in ``kl``, as in published tables: a tree that is missed costs 36."""

_CHUNK = 50  # particles at a time; more are slower
_DRAWS = 4000  # of topologies, among which the most probable ones are sought
_TUPLE = 10  # particles of the multi-sample bound


class Assessment:
    """Metrics and results of a phylogeny, always at inverse temperature 1.

    Args:
        phylogeny: model and guide.
        num_samples: importance samples to an estimate of the evidence.
        num_repeats: how many such estimates.
        seed: of all draws; the same ones are made whenever parameters are the same.
        golden: distinct trees of a reference sample, if there is one.

    Raises:
        ValueError: if a number is not positive, or all the draws are not a multiple of 10.
    """

    def __init__(
        self,
        phylogeny: VariationalPhylogeny,
        num_samples: int = 1000,
        num_repeats: int = 10,
        seed: int = 0,
        golden: TreeSet | None = None,
    ) -> None:
        self.phylogeny = phylogeny
        self.num_samples = positive_int("evaluation_samples", num_samples)
        self.num_repeats = positive_int("evaluation_repeats", num_repeats, minimum=2)
        if num_samples % _TUPLE:
            raise ValueError(f"evaluation_samples must be a multiple of {_TUPLE}, got {num_samples}")
        self.seed = seed
        self.golden = golden
        support = phylogeny.guide.lengths.support
        self.coverage = None if golden is None else support.coverage(golden)

    @torch.no_grad()
    def metrics(self, loader: Iterable[Any] | None = None) -> dict[str, float]:
        """Return what is known of the bound, the evidence and, with a reference sample, the topologies.

        ``lower_bound_1`` and ``lower_bound_10`` are the mean bounds of 1 and 10 samples, with their standard errors
        under ``..._error``; ``log_evidence`` is the mean of the importance-sampled estimates and ``log_evidence_sd``
        their standard deviation; ``kl`` is the divergence of the network from the frequencies of the reference
        sample, ``golden_in_support`` the share of that sample which the network can make at all.
        ``inverse_temperature`` is that of the training, not of these figures.

        Args:
            loader: of no use, since the model holds the alignment.
        """
        model = self.phylogeny.model
        found = {"inverse_temperature": float(model.inverse_temperature)}
        with isolated_random_state(self.seed, model.inverse_temperature.device), without_annealing(model):
            log_weight = self.phylogeny.lower_bound(1, self.num_samples * self.num_repeats, _CHUNK).double()
        for size in (1, _TUPLE):
            bound = _mean_weight(log_weight, size)
            found[f"lower_bound_{size}"] = float(bound.mean())
            found[f"lower_bound_{size}_error"] = float(bound.std() / len(bound) ** 0.5)
        log_evidence = _mean_weight(log_weight, self.num_samples)
        found |= {"log_evidence": float(log_evidence.mean()), "log_evidence_sd": float(log_evidence.std())}
        if self.golden is not None and self.coverage is not None:
            found["kl"] = float(tree_kl(self.golden, self.network(), floor=FLOOR))
            found["golden_in_support"] = self.coverage.weight
        return found

    @torch.no_grad()
    def network(self) -> SubsplitBayesianNetwork:
        """Return the law of topologies in float64, on the CPU."""
        support, logits = self.phylogeny.guide.lengths.support, self.phylogeny.guide.logits
        return SubsplitBayesianNetwork(support.to("cpu"), logits.detach().double().cpu())

    @torch.no_grad()
    def most_probable(self, number: int | None = None) -> TreeSet:
        """Return the most probable topologies of those drawn, falling, with their probabilities as weights."""
        network = self.network()
        with isolated_random_state(self.seed, torch.device("cpu")):
            trees = network.sample((_DRAWS,)).unique(dim=0)
        log_prob = network.log_prob(trees)
        best = log_prob.argsort(descending=True)[:number]
        return TreeSet(network.subsplits.taxa, trees[best], weights=log_prob[best].exp())

    @torch.no_grad()
    def median_lengths(self, trees: Tensor) -> Tensor:
        """Return the medians of the branch lengths of topologies ``(T, 2n - 2)``, ``(T, 2n - 3)``, on the CPU."""
        return self.length_quantiles(trees, [0.5])[0]

    @torch.no_grad()
    def length_quantiles(self, trees: Tensor, levels: list[float]) -> Tensor:
        """Return quantiles of branch lengths, ``(levels, T, 2n - 3)``, float64, on the CPU."""
        law = self.phylogeny.guide.lengths(trees.to(self.phylogeny.guide.logits.device)).base_dist
        return torch.stack([law.icdf(law.mean.new_tensor(level)) for level in levels]).double().cpu()

    def write_network(self, path: Path) -> None:
        """Write the law of topologies, for ``pyro-ext sbn`` among others."""
        self.network().save(path)

    def write_trees(self, path: Path) -> None:
        """Write the most probable topologies with their probabilities and the medians of their branch lengths."""
        trees = self.most_probable()
        lengths = self.median_lengths(trees.parents)
        write_trees(path, TreeSet(trees.taxa, trees.parents, weights=trees.weights, branch_lengths=lengths))


def _mean_weight(log_weight: Tensor, size: int) -> Tensor:
    """Return the logarithms of the mean weights of successive groups."""
    groups = log_weight.view(-1, size)
    return groups.logsumexp(-1) - torch.log(log_weight.new_tensor(size))
