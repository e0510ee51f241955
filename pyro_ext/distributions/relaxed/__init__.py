"""Relaxed one-hot, binary and k-hot variables, and their straight-through forms.

What differs from PyTorch's and Pyro's classes of the same names: densities and their gradients are finite for every
draw, in float32 at any temperature; the temperature has the batch's shape and is checked; impossible categories are
allowed; gradients do not vanish at extreme logits; straight-through values are ordinary tensors, one-hot from
``sample`` too, whose log-probability is that of the categorical distribution and differentiable in the value.
"""

from pyro_ext.distributions.relaxed.bernoulli import (
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
)
from pyro_ext.distributions.relaxed.objectives import OBJECTIVES, Objective, kl_divergence, log_space
from pyro_ext.distributions.relaxed.one_hot import ExpRelaxedOneHotCategorical, RelaxedOneHotCategorical
from pyro_ext.distributions.relaxed.reinmax import OneHotCategoricalReinMax
from pyro_ext.distributions.relaxed.straight_through import (
    GumbelRaoOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
)
from pyro_ext.distributions.relaxed.top_k import RelaxedTopK

__all__ = [
    "OBJECTIVES",
    "ExpRelaxedOneHotCategorical",
    "GumbelRaoOneHotCategorical",
    "LogitRelaxedBernoulli",
    "Objective",
    "OneHotCategoricalReinMax",
    "RelaxedBernoulli",
    "RelaxedBernoulliStraightThrough",
    "RelaxedOneHotCategorical",
    "RelaxedOneHotCategoricalStraightThrough",
    "RelaxedTopK",
    "kl_divergence",
    "log_space",
]
