"""What to look at of a fitted phylogeny."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.models.phylo.assessment import Assessment
from pyro_ext.phylo import TreeSet, splits
from pyro_ext.plotting import branch_intervals, plot_topology_probabilities, tree_probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["pictures"]

_BARS = 15


def pictures(found: Assessment) -> dict[str, Callable[..., Axes]]:
    """Return the plots of a phylogeny; with a reference sample, its topologies are held against that too."""
    golden = found.golden

    def topologies(ax: Axes | None = None) -> Axes:
        """Draw the probabilities of the most probable topologies."""
        best = found.most_probable(_BARS)
        laws = {"network": found.network().log_prob(best.parents).exp().tolist()}
        if golden is not None:
            laws["reference"] = _frequencies(best.parents, golden).tolist()
        return plot_topology_probabilities(laws, ax)

    def branch_lengths(ax: Axes | None = None) -> Axes:
        """Draw the branch lengths of the most probable topology."""
        best = found.most_probable(1)
        quantiles = found.length_quantiles(best.parents, [0.025, 0.5, 0.975])[:, 0]
        return branch_intervals(quantiles, ax, labels=_branch_names(best))

    drawn: dict[str, Callable[..., Axes]] = {"topologies": topologies, "branch_lengths": branch_lengths}
    if golden is not None:
        reference = golden

        def golden_probabilities(ax: Axes | None = None) -> Axes:
            """Draw the probability of each topology of the reference sample against its frequency."""
            log_prob = found.network().log_prob(reference.parents)
            return tree_probabilities(reference.probabilities(), log_prob, ax, xlabel="frequency in the reference")

        drawn["golden"] = golden_probabilities
    return drawn


def _frequencies(trees: Tensor, golden: TreeSet) -> Tensor:
    """Return how frequent trees ``(T, N)`` are in a sample, ``(T,)``."""
    distinct, number = torch.cat([golden.parents, trees]).unique(dim=0, return_inverse=True)
    share = torch.zeros(len(distinct), dtype=torch.float64)
    share.index_add_(0, number[: len(golden)], golden.probabilities())
    return share[number[len(golden) :]]


def _branch_names(trees: TreeSet, longest: int = 3) -> list[str]:
    """Return what the branches of one tree cut off: a taxon, or the smaller side of a split."""
    names = []
    for side in splits(trees.parents)[0].tolist():
        inside = [taxon for taxon, there in zip(trees.taxa, side, strict=True) if there]
        outside = [taxon for taxon, there in zip(trees.taxa, side, strict=True) if not there]
        smaller = min(inside, outside, key=len)
        more = f" + {len(smaller) - longest}" if len(smaller) > longest else ""
        names.append(", ".join(smaller[:longest]) + more)
    return names
