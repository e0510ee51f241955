"""Phylogenies from aligned sequences: branch lengths on a known topology, or topology and lengths together.

:class:`FixedTopology` is the model of branch lengths whose evidence tells topologies apart (Fourment et al. 2020, "19
dubious ways to compute the marginal likelihood of a phylogenetic tree topology", doi 10.1093/sysbio/syz046).
:class:`VariationalPhylogeny` approximates the posterior of trees by a subsplit Bayesian network and log-normal branch
lengths (Zhang and Matsen 2019, "Variational Bayesian phylogenetic inference", openreview SJVmjjR9FX). Its headline
figure is the log-evidence of the alignment DS1 under JC69: -7108.42 nats by stepping-stone sampling and in that paper;
``benchmarks/variational_phylogeny.py`` estimates -7108.35 with a standard deviation of 0.15.
"""

from __future__ import annotations

from pyro_ext.models.phylo.build import AnnealedELBO, build
from pyro_ext.models.phylo.fixed_topology import FixedTopology
from pyro_ext.models.phylo.process import Process
from pyro_ext.models.phylo.variational import SplitBranchLengths, TopologyGuide, TopologyModel, VariationalPhylogeny

__all__ = [
    "AnnealedELBO",
    "FixedTopology",
    "Process",
    "SplitBranchLengths",
    "TopologyGuide",
    "TopologyModel",
    "VariationalPhylogeny",
    "build",
]
