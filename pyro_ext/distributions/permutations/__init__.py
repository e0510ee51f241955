"""Distributions of permutations, exact and relaxed."""

from pyro_ext.distributions.permutations._discrete import PermutationDistribution
from pyro_ext.distributions.permutations.gumbel import GumbelMatching, GumbelSinkhorn
from pyro_ext.distributions.permutations.matching import PermutationMatching, UniformPermutation
from pyro_ext.distributions.permutations.relaxed_stick_breaking import RelaxedStickBreakingPermutation
from pyro_ext.distributions.permutations.rounding import RelaxedRoundingPermutation
from pyro_ext.distributions.permutations.stick_breaking import StickBreakingPermutation

__all__ = [
    "GumbelMatching",
    "GumbelSinkhorn",
    "PermutationDistribution",
    "PermutationMatching",
    "RelaxedRoundingPermutation",
    "RelaxedStickBreakingPermutation",
    "StickBreakingPermutation",
    "UniformPermutation",
]
