"""Topologies and branch lengths together: a subsplit Bayesian network and log-normal lengths as the guide."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.distributions import SubsplitBayesianNetwork, TreeLikelihood, UniformTopology
from pyro_ext.models.phylo._branch_rate import check_branch_rate
from pyro_ext.models.phylo.branch_lengths import SplitBranchLengths
from pyro_ext.phylo import Alignment, SubsplitSupport

__all__ = ["TopologyGuide", "TopologyModel", "VariationalPhylogeny"]


class TopologyModel(PyroModule):
    r"""Unknown topology and branch lengths under JC69.

    .. math::  \tau \sim \mathrm{Uniform}, \qquad b_e \sim \mathrm{Exponential}(10), \qquad
        D \mid \tau, b \sim \mathrm{TreeLikelihood}(\tau, b)^\beta

    Args:
        alignment: n sequences.
        branch_rate: the rate of the exponential prior of each length, 1e-6 to 1e9.

    Raises:
        ValueError: if ``branch_rate`` is out of range.

    Attributes:
        inverse_temperature: the power beta of the likelihood, a buffer; 1 for the model itself.

    Example:
        >>> alignment = Alignment.from_sequences({"a": "ACGT", "b": "ACGA", "c": "AGGA", "d": "AGGT"})
        >>> [*poutine.trace(TopologyModel(alignment)).get_trace().stochastic_nodes]
        ['topology', 'branch_lengths']
    """

    def __init__(self, alignment: Alignment, branch_rate: float = 10.0) -> None:
        super().__init__()
        check_branch_rate(branch_rate)
        self.num_taxa = len(alignment.taxa)
        self.branch_rate = branch_rate
        self.register_buffer("patterns", alignment.patterns)
        self.register_buffer("weights", alignment.weights.to(alignment.patterns))
        self.register_buffer("inverse_temperature", alignment.patterns.new_ones(()))

    def forward(self, *_: Any) -> None:
        """Sample ``topology`` and ``branch_lengths``, observe ``alignment``."""
        tree = pyro.sample("topology", UniformTopology(self.num_taxa, like=self.patterns, validate_args=False))
        rate = self.patterns.new_tensor(self.branch_rate)
        prior = dist.Exponential(rate).expand([2 * self.num_taxa - 3]).to_event(1)
        lengths = pyro.sample("branch_lengths", prior)
        likelihood = TreeLikelihood(tree, lengths, weights=self.weights, validate_args=False)
        with poutine.scale(scale=self.inverse_temperature):
            pyro.sample("alignment", likelihood, obs=self.patterns)


class TopologyGuide(PyroModule):
    """A subsplit Bayesian network over topologies, log-normal branch lengths given the topology.

    Args:
        support: the subsplits of unrooted trees.
        logits: where training begins, ``(parameters,)``; all 0 if None.
        dtype: of the parameters.

    Example:
        >>> guide = TopologyGuide(SubsplitSupport.from_trees(torch.tensor([[-1, 4, 5, 5, 0, 4]])))
        >>> poutine.trace(guide).get_trace().nodes["topology"]["value"]
        tensor([-1,  4,  5,  5,  0,  4])
    """

    def __init__(
        self, support: SubsplitSupport, logits: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        start = torch.zeros(support.num_parameters, device=support.device) if logits is None else logits
        self.logits = nn.Parameter(start.detach().to(dtype).clone())
        self.lengths = SplitBranchLengths(support, dtype)

    def forward(self, *_: Any) -> None:
        """Sample ``topology`` and ``branch_lengths``."""
        law = self.topologies()
        tree = pyro.sample("topology", law)
        pyro.sample("branch_lengths", self.lengths(tree, law.index(tree)))

    def topologies(self) -> SubsplitBayesianNetwork:
        """Return the law of topologies."""
        return SubsplitBayesianNetwork(self.lengths.support, self.logits, validate_args=False)


class VariationalPhylogeny(PyroModule):
    r"""The posterior of topology and branch lengths of unrooted trees, approximated within a support.

    ``model`` and ``guide`` are Pyro programs for any ELBO; :class:`~pyro_ext.inference.TraceVIMCO_ELBO` gives the
    multi-sample bound of the publication, :class:`~pyro_ext.inference.TraceUnorderedSet_ELBO` distinct topologies.

    Args:
        alignment: n sequences.
        support: the subsplits that topologies are made of, over the same taxa: those of a short run, or of bootstrap
            trees.
        logits: where the network begins, ``(parameters,)``; all 0, each split of a clade alike, if None.
        branch_rate: the rate of the exponential prior of each length, 1e-6 to 1e9.

    Raises:
        ValueError: if the taxa differ, the support is of rooted trees, or ``branch_rate`` is out of range.

    References:
        | Variational Bayesian phylogenetic inference (Zhang and Matsen, 2019)
        | https://openreview.net/forum?id=SJVmjjR9FX

    Example:
        >>> alignment = Alignment.from_sequences({"a": "ACGT", "b": "ACGA", "c": "AGGA", "d": "AGGT"})
        >>> support = SubsplitSupport.from_trees(torch.tensor([[-1, 4, 5, 5, 0, 4]]), taxa=alignment.taxa)
        >>> VariationalPhylogeny(alignment, support).lower_bound(num_particles=10, num_repeats=2).shape
        torch.Size([2])
    """

    def __init__(
        self,
        alignment: Alignment,
        support: SubsplitSupport,
        logits: Tensor | None = None,
        branch_rate: float = 10.0,
    ) -> None:
        super().__init__()
        if support.taxa != alignment.taxa:
            different = sorted({*support.taxa} ^ {*alignment.taxa})
            raise ValueError(
                f"support and alignment must have the same taxa; only one of them has {', '.join(different[:5])}"
            )
        self.model = TopologyModel(alignment, branch_rate)
        self.guide = TopologyGuide(support, logits, alignment.patterns.dtype)

    def log_weights(self, num_particles: int) -> Tensor:
        """Draw topologies and lengths from the guide; return their log-weights, log p - log q, ``(num_particles,)``.

        Args:
            num_particles: how many to draw, all in one pass.
        """
        with pyro.plate("particles", num_particles, dim=-1):
            guide = poutine.trace(self.guide).get_trace()
            model = poutine.trace(poutine.replay(self.model, guide)).get_trace()
        model.compute_log_prob()
        guide.compute_log_prob()
        sites = [trace.nodes[name]["log_prob"] for trace in (model, guide) for name in ("topology", "branch_lengths")]
        log_weight: Tensor = model.nodes["alignment"]["log_prob"] + sites[0] + sites[1] - sites[2] - sites[3]
        return log_weight

    @torch.no_grad()
    def lower_bound(self, num_particles: int = 1, num_repeats: int = 1, chunk: int = 500) -> Tensor:
        r"""Return draws of the lower bound :math:`\log \frac1K \sum_k w_k` of the evidence, ``(num_repeats,)``.

        With many particles it estimates the evidence itself.

        Args:
            num_particles: K.
            num_repeats: how many draws.
            chunk: how many particles to evaluate in one pass.
        """
        total, found = num_particles * num_repeats, []
        while total > 0:
            found.append(self.log_weights(min(chunk, total)))
            total -= chunk
        log_weight = torch.cat(found).reshape(num_repeats, num_particles)
        return log_weight.logsumexp(-1) - torch.log(log_weight.new_tensor(num_particles))
