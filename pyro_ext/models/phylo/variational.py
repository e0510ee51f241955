"""Topologies and branch lengths together: a subsplit Bayesian network and log-normal lengths as the guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.distributions import SubsplitBayesianNetwork, TreeLikelihood, UniformTopology
from pyro_ext.models.phylo.process import branch_length_prior, check_branch_rate
from pyro_ext.ops.subsplits.rootings import TreeIndex
from pyro_ext.phylo import Alignment, SubsplitSupport

__all__ = ["SplitBranchLengths", "TopologyGuide", "TopologyModel", "VariationalPhylogeny"]

# Where training begins: the logarithm of a branch length has mean -2 and standard deviation exp(-1).
_LOG_LENGTH = -2.0
_LOG_SCALE = -1.0


class TopologyModel(PyroModule):
    r"""Unknown topology and branch lengths under JC69.

    .. math::  \tau \sim \mathrm{Uniform}, \qquad b_e \sim \mathrm{Exponential}(10), \qquad
        D \mid \tau, b \sim \mathrm{TreeLikelihood}(\tau, b)^\beta

    Args:
        alignment: n aligned sequences.
        branch_rate: the rate of the exponential prior of each branch length, from 1e-6 to 1e9.

    Raises:
        ValueError: if ``branch_rate`` is out of range.

    Attributes:
        inverse_temperature: the power beta of the likelihood, a buffer; 1 for the model itself.

    Example:
        >>> alignment = Alignment.from_sequences({"a": "ACGT", "b": "ACGA", "c": "AGGA", "d": "AGGT"})
        >>> [*poutine.trace(TopologyModel(alignment)).get_trace().stochastic_nodes]
        ['topology', 'branch_lengths']
    """

    inverse_temperature: Tensor

    def __init__(self, alignment: Alignment, branch_rate: float = 10.0) -> None:
        super().__init__()
        self.num_taxa = len(alignment.taxa)
        self.branch_rate = check_branch_rate(branch_rate)
        self.register_buffer("patterns", alignment.patterns)
        self.register_buffer("weights", alignment.weights.to(alignment.patterns))
        self.register_buffer("inverse_temperature", alignment.patterns.new_ones(()))

    def forward(self, *_: Any) -> None:
        """Sample ``topology`` and ``branch_lengths``, observe ``alignment``.

        The model holds the alignment in its own type and on its own device, so it needs no part of a batch.
        """
        tree = pyro.sample("topology", UniformTopology(self.num_taxa, like=self.patterns, validate_args=False))
        prior = branch_length_prior(self.branch_rate, 2 * self.num_taxa - 3, self.patterns)
        lengths = pyro.sample("branch_lengths", prior)
        likelihood = TreeLikelihood(tree, lengths, weights=self.weights, validate_args=False)
        with poutine.scale(scale=self.inverse_temperature):
            pyro.sample("alignment", likelihood, obs=self.patterns)


class SplitBranchLengths(PyroModule):
    r"""Log-normal branch lengths whose parameters are sums over the subsplits next to an edge.

    .. math::  \log b_e \sim \mathcal{N}(\mu_e, \sigma_e^2), \qquad
        \mu_e = \mu_0 + \psi^\mu_{s(e)} + \sum_p \psi^\mu_{p}, \qquad
        \log \sigma_e = \lambda_0 + \psi^\sigma_{s(e)} + \sum_p \psi^\sigma_{p}

    where s(e) is the split of the edge e. The sum is over the primary subsplit pairs p of the edge: s(e) together with
    the subsplit at an end of the edge, for each end that is not a leaf. Where topologies agree around an edge, the
    length of that edge has the same distribution in all of them.

    Args:
        support: the subsplits of unrooted trees of n taxa.
        dtype: the type of the parameters.

    Raises:
        ValueError: if the support is of rooted trees.

    References:
        | Variational Bayesian phylogenetic inference (Zhang and Matsen, 2019), section 3.2
        | https://openreview.net/forum?id=SJVmjjR9FX

    Example:
        >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4]])
        >>> lengths = SplitBranchLengths(SubsplitSupport.from_trees(trees))
        >>> lengths(trees).event_shape, lengths(trees).batch_shape
        (torch.Size([5]), torch.Size([1]))
    """

    def __init__(self, support: SubsplitSupport, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if support.rooted:
            raise ValueError(f"support must be of unrooted trees, got {support!r}")
        self.support = support
        # location and log-scale for each split and each subsplit pair of the support
        self.effects = nn.Parameter(torch.zeros(support.num_parameters, 2, dtype=dtype, device=support.device))

    def forward(self, trees: Tensor, index: TreeIndex | None = None) -> TorchDistribution:
        """Return the distribution of the branch lengths of trees, event shape ``(2n - 3,)``.

        Args:
            trees: canonical unrooted topologies, shape ``batch_shape + (2n - 2,)``.
            index: the places of the trees' subsplits in the support, if they have been looked up already.
        """
        if index is None:
            index = self.support.index(trees.reshape(-1, trees.shape[-1]))
        rows = self._neighbours(index.position)
        padded = torch.cat([self.effects, self.effects.new_zeros(2, 2)])  # for what support or edge do not have
        total = padded[rows].sum(-2).reshape(*trees.shape[:-1], -1, 2)
        loc, log_scale = (total + total.new_tensor([_LOG_LENGTH, _LOG_SCALE])).unbind(-1)
        return dist.LogNormal(loc, log_scale.exp(), validate_args=False).to_event(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SplitBranchLengths:
        """Move the support with the parameters; it is no module, so ``to`` and ``cuda`` alone would leave it behind."""
        super()._apply(fn, recurse)
        self.support = self.support.to(self.effects.device)
        return self

    def _neighbours(self, position: Tensor) -> Tensor:
        """Return the places of the split and the two primary subsplit pairs of each edge, ``(T, 2n - 3, 3)``."""
        n = self.support.num_taxa
        num_nodes = 2 * n - 2
        root, upper, _, own, _, _ = position.split([num_nodes] * 3 + [n - 2] * 3, -1)
        none = position.new_full((len(position), n), self.support.num_parameters + 1)
        return torch.stack([root, upper, torch.cat([none, own], -1)], -1)[:, 1:]


class TopologyGuide(PyroModule):
    """A subsplit Bayesian network over topologies, log-normal branch lengths given the topology.

    Args:
        support: the subsplits of unrooted trees.
        logits: the initial parameters of the network, shape ``(parameters,)``; all 0 if None.
        dtype: the type of the parameters.

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
        """Sample ``topology`` and ``branch_lengths``; the guide needs no part of a batch."""
        topologies = self.topologies()
        tree = pyro.sample("topology", topologies)
        pyro.sample("branch_lengths", self.lengths(tree, topologies.index(tree)))

    def topologies(self) -> SubsplitBayesianNetwork:
        """Return the distribution of topologies."""
        return SubsplitBayesianNetwork(self.lengths.support, self.logits, validate_args=False)


class VariationalPhylogeny(PyroModule):
    r"""The posterior of topology and branch lengths of unrooted trees, approximated within a support.

    ``model`` and ``guide`` are Pyro programs for any ELBO: :class:`~pyro_ext.inference.TraceVIMCO_ELBO` maximises the
    multi-sample bound of the publication, :class:`~pyro_ext.inference.TraceUnorderedSet_ELBO` the ordinary bound by
    distinct topologies.

    Args:
        alignment: n aligned sequences.
        support: the subsplits that topologies are made of, over the same taxa; usually those of the trees of a short
            run of a sampler, or of bootstrap trees.
        logits: the initial parameters of the network, shape ``(parameters,)``; all 0 if None, so that all splits of a
            clade are equally probable.
        branch_rate: the rate of the exponential prior of each branch length, from 1e-6 to 1e9.

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
        """Draw topologies and branch lengths from the guide; return their log-weights, log p - log q.

        Args:
            num_particles: how many to draw and evaluate together; the shape returned is ``(num_particles,)``.
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
        r"""Return samples of the lower bound :math:`\log \frac1K \sum_k w_k` of the evidence, ``(num_repeats,)``.

        With many particles it estimates the evidence itself.

        Args:
            num_particles: the number K of particles of the bound.
            num_repeats: the number of samples of the bound.
            chunk: the largest number of particles to evaluate together.
        """
        left, log_weights = num_particles * num_repeats, []
        while left > 0:
            log_weights.append(self.log_weights(min(chunk, left)))
            left -= chunk
        log_weight = torch.cat(log_weights).reshape(num_repeats, num_particles)
        return log_weight.logsumexp(-1) - torch.log(log_weight.new_tensor(num_particles))
