"""Distributions over discrete and structured values, used like Pyro's own."""

from pyro_ext.distributions import constraints, transforms
from pyro_ext.distributions.log_uniform import LogUniform
from pyro_ext.distributions.permutations import (
    GumbelMatching,
    GumbelSinkhorn,
    PermutationMatching,
    RelaxedRoundingPermutation,
    RelaxedStickBreakingPermutation,
    StickBreakingPermutation,
    UniformPermutation,
)
from pyro_ext.distributions.plackett_luce import PlackettLuce
from pyro_ext.distributions.relaxed import (
    ExpRelaxedOneHotCategorical,
    GumbelRaoOneHotCategorical,
    LogitRelaxedBernoulli,
    OneHotCategoricalReinMax,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
    RelaxedTopK,
    kl_divergence,
)
from pyro_ext.distributions.tree_likelihood import TreeLikelihood
from pyro_ext.distributions.trees import (
    ConditionalCladeDistribution,
    EntropyBounds,
    RankedTrees,
    SearchLimitError,
    SubsplitBayesianNetwork,
    TreeFrequency,
    UniformTopology,
    held_out_log_likelihood,
    tree_dispersion,
    tree_kl,
)
from pyro_ext.distributions.unordered_set import UnorderedSet

__all__ = [
    "ConditionalCladeDistribution",
    "EntropyBounds",
    "ExpRelaxedOneHotCategorical",
    "GumbelMatching",
    "GumbelRaoOneHotCategorical",
    "GumbelSinkhorn",
    "LogUniform",
    "LogitRelaxedBernoulli",
    "OneHotCategoricalReinMax",
    "PermutationMatching",
    "PlackettLuce",
    "RankedTrees",
    "RelaxedBernoulli",
    "RelaxedBernoulliStraightThrough",
    "RelaxedOneHotCategorical",
    "RelaxedOneHotCategoricalStraightThrough",
    "RelaxedRoundingPermutation",
    "RelaxedStickBreakingPermutation",
    "RelaxedTopK",
    "SearchLimitError",
    "StickBreakingPermutation",
    "SubsplitBayesianNetwork",
    "TreeFrequency",
    "TreeLikelihood",
    "UniformPermutation",
    "UniformTopology",
    "UnorderedSet",
    "constraints",
    "held_out_log_likelihood",
    "kl_divergence",
    "transforms",
    "tree_dispersion",
    "tree_kl",
]
