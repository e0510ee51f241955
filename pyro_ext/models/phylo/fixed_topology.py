"""Branch lengths of a tree whose topology is known, under any process of substitution."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_ext.distributions import TreeLikelihood
from pyro_ext.models.phylo.process import Process, branch_length_prior, check_branch_rate
from pyro_ext.phylo import Alignment

__all__ = ["FixedTopology"]


class FixedTopology(PyroModule):
    r"""The posterior of branch lengths given one topology, as a Pyro program.

    .. math::  b_e \sim \mathrm{Exponential}(10), \qquad D \mid b \sim \mathrm{TreeLikelihood}(\tau, b)

    for each of the E edges (2n - 3 of an unrooted tree, 2n - 2 of a rooted one); the unknowns of the process of
    substitution have priors of their own, see :class:`Process`. The sample sites are ``branch_lengths``, shape
    ``(E,)``, those of the process, and ``alignment``, which is observed. Particles may be vectorised.
    :func:`~pyro_ext.inference.estimate_evidence` estimates the evidence of this model.

    Args:
        alignment: n aligned sequences.
        tree: the canonical topology, int64, shape ``(2n - 2,)`` if unrooted or ``(2n - 1,)`` if rooted; its taxa are
            those of the alignment in sorted order.
        process: how nucleotides are substituted; JC69 with one rate if None.
        branch_rate: the rate of the exponential prior of each branch length, 1 over their mean; from 1e-6 to 1e9.

    Raises:
        ValueError: if the tree has another number of taxa than the alignment, or ``branch_rate`` is out of range.

    References:
        | 19 dubious ways to compute the marginal likelihood of a phylogenetic tree topology (Fourment et al., 2020)
        | https://doi.org/10.1093/sysbio/syz046

    Example:
        >>> alignment = Alignment.from_sequences({"a": "ACGT", "b": "ACGA", "c": "AGGA"})
        >>> model = FixedTopology(alignment, torch.tensor([-1, 3, 3, 0]))
        >>> pyro.poutine.trace(model).get_trace().nodes["branch_lengths"]["value"].shape
        torch.Size([3])
    """

    def __init__(
        self, alignment: Alignment, tree: Tensor, process: Process | None = None, branch_rate: float = 10.0
    ) -> None:
        super().__init__()
        _check_tree(alignment, tree)
        self.branch_rate = check_branch_rate(branch_rate)
        self.process = Process() if process is None else process
        self.num_edges = tree.shape[-1] - 1
        self.taxa = alignment.taxa
        self.register_buffer("tree", tree)
        self.register_buffer("patterns", alignment.patterns)
        self.register_buffer("weights", alignment.weights.to(alignment.patterns))
        self.register_buffer("empirical", alignment.frequencies().to(alignment.patterns))

    def forward(self, *_: Any) -> Tensor:
        """Sample branch lengths and the unknowns of the process, observe the alignment; return the branch lengths."""
        prior = branch_length_prior(self.branch_rate, self.num_edges, self.empirical)
        branch_lengths: Tensor = pyro.sample("branch_lengths", prior)
        pyro.sample("alignment", self.likelihood(branch_lengths), obs=self.patterns)
        return branch_lengths

    def likelihood(self, branch_lengths: Tensor) -> TreeLikelihood:
        """Sample the unknowns of the process; return the distribution of the alignment given branch lengths.

        Args:
            branch_lengths: one for each edge, shape ``batch_shape + (E,)``.
        """
        substitution_model, site_model = self.process.sample(self.empirical)
        return TreeLikelihood(
            self.tree, branch_lengths, substitution_model, site_model, self.weights, validate_args=False
        )


def _check_tree(alignment: Alignment, tree: Tensor) -> None:
    num_taxa = len(alignment.taxa)
    if tree.dtype != torch.int64 or tree.shape not in ((2 * num_taxa - 2,), (2 * num_taxa - 1,)):
        raise ValueError(
            f"tree must be int64 ({2 * num_taxa - 2},) or ({2 * num_taxa - 1},) for the {num_taxa} taxa of the "
            f"alignment, got {tree.dtype} {tuple(tree.shape)}; read it with its taxa in the order of the alignment's"
        )
