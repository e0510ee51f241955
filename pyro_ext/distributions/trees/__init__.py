"""Distributions of tree topologies."""

from pyro_ext.distributions.trees._best_trees import RankedTrees, SearchLimitError
from pyro_ext.distributions.trees._entropy import EntropyBounds
from pyro_ext.distributions.trees.clade import ConditionalCladeDistribution
from pyro_ext.distributions.trees.divergence import tree_kl
from pyro_ext.distributions.trees.fitting import FitHistory
from pyro_ext.distributions.trees.frequency import TreeFrequency
from pyro_ext.distributions.trees.subsplit import SubsplitBayesianNetwork
from pyro_ext.distributions.trees.uniform import UniformTopology

__all__ = [
    "ConditionalCladeDistribution",
    "EntropyBounds",
    "FitHistory",
    "RankedTrees",
    "SearchLimitError",
    "SubsplitBayesianNetwork",
    "TreeFrequency",
    "UniformTopology",
    "tree_kl",
]
