"""Distributions of tree topologies."""

from pyro_ext.distributions.trees._best_trees import RankedTrees, SearchLimitError
from pyro_ext.distributions.trees._entropy import EntropyBounds
from pyro_ext.distributions.trees.clade import ConditionalCladeDistribution
from pyro_ext.distributions.trees.divergence import tree_dispersion, tree_kl
from pyro_ext.distributions.trees.fitting import FitHistory
from pyro_ext.distributions.trees.frequency import TreeFrequency
from pyro_ext.distributions.trees.held_out import held_out_log_likelihood
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
    "held_out_log_likelihood",
    "tree_dispersion",
    "tree_kl",
]
