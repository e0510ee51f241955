"""Laws of permutations, exact and relaxed."""

from pyro_ext.distributions.permutations.relaxed_stick_breaking import RelaxedStickBreakingPermutation
from pyro_ext.distributions.permutations.stick_breaking import StickBreakingPermutation

__all__ = ["RelaxedStickBreakingPermutation", "StickBreakingPermutation"]
