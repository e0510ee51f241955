"""How close a variational phylogeny is to the posterior of trees: metrics, result files and plots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_ext.distributions import SubsplitBayesianNetwork, tree_kl
from pyro_ext.inference import local_params
from pyro_ext.models.phylo.variational import TopologyModel, VariationalPhylogeny
from pyro_ext.phylo import TreeSet, splits, write_trees
from pyro_ext.plotting import branch_intervals, plot_topology_probabilities, tree_probabilities
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.random_state import isolated_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FLOOR", "Evaluation"]

FLOOR = 2.220446e-16
"""The least probability that a tree is taken to have in ``kl``, as in published tables; its logarithm is -36."""

_CHUNK = 50  # particles evaluated together; larger chunks are slower
_DRAWS = 4000  # topologies drawn to find the most probable ones among them
_TUPLE = 10  # particles of the multi-sample bound
_SHOWN = 15  # topologies in the plot


class Evaluation:
    """Metrics, result files and plots of a phylogeny, always at inverse temperature 1.

    Args:
        phylogeny: model and guide.
        num_samples: the number of importance samples in each estimate of the evidence, a multiple of 10.
        num_repeats: the number of such estimates.
        seed: the seed of all draws, which are the same whenever parameters are the same.
        golden: the distinct trees of a reference sample, if there is one.

    Raises:
        ValueError: if ``num_samples`` is not a positive multiple of 10, or ``num_repeats`` is less than 2.
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
        """Return the bounds, the evidence and, with a reference sample, how well the topologies agree with it.

        ``lower_bound_1`` and ``lower_bound_10`` are the mean bounds of 1 and 10 samples, with their standard errors
        under ``..._error``; ``log_evidence`` is the mean of the importance-sampled estimates and ``log_evidence_sd``
        their standard deviation; ``kl`` is the divergence of the network from the frequencies of the reference
        sample, ``golden_in_support`` the share of that sample which has a positive probability.

        Args:
            loader: not used, since the model holds the alignment.
        """
        model = self.phylogeny.model
        noise = isolated_random_state(self.seed, model.inverse_temperature.device)
        with noise, local_params(), _without_annealing(model):
            log_weight = self.phylogeny.lower_bound(1, self.num_samples * self.num_repeats, _CHUNK).double()
        metrics = {}
        for size in (1, _TUPLE):
            bound = _log_mean_weights(log_weight, size)
            metrics[f"lower_bound_{size}"] = float(bound.mean())
            metrics[f"lower_bound_{size}_error"] = float(bound.std() / len(bound) ** 0.5)
        log_evidence = _log_mean_weights(log_weight, self.num_samples)
        metrics |= {"log_evidence": float(log_evidence.mean()), "log_evidence_sd": float(log_evidence.std())}
        if self.golden is not None and self.coverage is not None:
            metrics["kl"] = float(tree_kl(self.golden, self.network(), floor=FLOOR))
            metrics["golden_in_support"] = self.coverage.weight
        return metrics

    @torch.no_grad()
    def network(self) -> SubsplitBayesianNetwork:
        """Return the distribution of topologies in float64, on the CPU."""
        support, logits = self.phylogeny.guide.lengths.support, self.phylogeny.guide.logits
        return SubsplitBayesianNetwork(support.to("cpu"), logits.detach().double().cpu())

    @torch.no_grad()
    def most_probable(self, number: int | None = None) -> TreeSet:
        """Return the most probable ones of 4,000 topologies drawn, in falling order, with probabilities as weights.

        Args:
            number: how many to return at most; all distinct ones if None.
        """
        network = self.network()
        with isolated_random_state(self.seed, torch.device("cpu")):
            trees = network.sample((_DRAWS,)).unique(dim=0)
        log_prob = network.log_prob(trees)
        best = log_prob.argsort(descending=True)[:number]
        return TreeSet(network.subsplits.taxa, trees[best], weights=log_prob[best].exp())

    @torch.no_grad()
    def length_quantiles(self, trees: Tensor, levels: list[float]) -> Tensor:
        """Return quantiles of branch lengths, shape ``(levels, T, 2n - 3)``, in float64, on the CPU.

        Args:
            trees: topologies, shape ``(T, 2n - 2)``.
            levels: the probabilities of the quantiles, 0.5 for the median.
        """
        with local_params():
            lengths = self.phylogeny.guide.lengths(trees.to(self.phylogeny.guide.logits.device)).base_dist
        return torch.stack([lengths.icdf(lengths.mean.new_tensor(level)) for level in levels]).double().cpu()

    # Files

    def write_network(self, path: Path) -> None:
        """Write the distribution of topologies, which ``pyro-ext sbn`` reads."""
        self.network().save(path)

    def write_topologies(self, path: Path) -> None:
        """Write the most probable topologies with their probabilities and the medians of their branch lengths."""
        trees = self.most_probable()
        medians = self.length_quantiles(trees.parents, [0.5])[0]
        write_trees(path, TreeSet(trees.taxa, trees.parents, weights=trees.weights, branch_lengths=medians))

    # Plots

    def plot_topologies(self, ax: Axes | None = None) -> Axes:
        """Plot the probabilities of the most probable topologies, beside their frequencies in a reference sample."""
        best = self.most_probable(_SHOWN)
        shares = {"network": self.network().log_prob(best.parents).exp().tolist()}
        if self.golden is not None:
            shares["reference sample"] = _frequencies(best.parents, self.golden).tolist()
        title = f"the most probable of {_DRAWS:,} topologies drawn from the network"
        return plot_topology_probabilities(shares, ax, title=title)

    def plot_branch_lengths(self, ax: Axes | None = None) -> Axes:
        """Plot the branch lengths of the most probable topology."""
        best = self.most_probable(1)
        quantiles = self.length_quantiles(best.parents, [0.025, 0.5, 0.975])[:, 0]
        return branch_intervals(quantiles, ax, labels=_branch_names(best))

    def plot_golden(self, ax: Axes | None = None) -> Axes:
        """Plot the probability of each topology of the reference sample against its frequency.

        Raises:
            ValueError: if there is no reference sample.
        """
        if self.golden is None:
            raise ValueError("golden must be a reference sample of trees for this plot, got None")
        log_prob = self.network().log_prob(self.golden.parents)
        return tree_probabilities(self.golden.probabilities(), log_prob, ax, xlabel="frequency in the reference sample")


@contextmanager
def _without_annealing(model: TopologyModel) -> Iterator[None]:
    """Set the inverse temperature of a model to 1 for a block."""
    before = model.inverse_temperature.clone()
    model.inverse_temperature.fill_(1.0)
    try:
        yield
    finally:
        model.inverse_temperature.copy_(before)


def _log_mean_weights(log_weight: Tensor, size: int) -> Tensor:
    """Return the logarithms of the mean weights of successive groups of a size."""
    groups = log_weight.view(-1, size)
    return groups.logsumexp(-1) - torch.log(log_weight.new_tensor(size))


def _frequencies(trees: Tensor, golden: TreeSet) -> Tensor:
    """Return the frequencies of trees ``(T, N)`` in a sample, shape ``(T,)``."""
    distinct, number = torch.cat([golden.parents, trees]).unique(dim=0, return_inverse=True)
    share = torch.zeros(len(distinct), dtype=torch.float64, device=trees.device)
    share.index_add_(0, number[: len(golden)], golden.probabilities())
    return share[number[len(golden) :]]


def _branch_names(trees: TreeSet, longest: int = 3) -> list[str]:
    """Return a name for each branch of one tree: the taxa on the smaller side of its split, shortened."""
    names = []
    for side in splits(trees.parents)[0].tolist():
        inside = [taxon for taxon, there in zip(trees.taxa, side, strict=True) if there]
        outside = [taxon for taxon, there in zip(trees.taxa, side, strict=True) if not there]
        smaller = min(inside, outside, key=len)
        more = f" + {len(smaller) - longest}" if len(smaller) > longest else ""
        names.append(", ".join(smaller[:longest]) + more)
    return names
