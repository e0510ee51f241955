"""Distributions over discrete and structured values, used like Pyro's own."""

from pyro_ext.distributions import constraints
from pyro_ext.distributions.plackett_luce import PlackettLuce
from pyro_ext.distributions.relaxed import (
    ExpRelaxedOneHotCategorical,
    GumbelRaoOneHotCategorical,
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
    RelaxedTopK,
    kl_divergence,
)
from pyro_ext.distributions.unordered_set import UnorderedSet

__all__ = [
    "ExpRelaxedOneHotCategorical",
    "GumbelRaoOneHotCategorical",
    "LogitRelaxedBernoulli",
    "PlackettLuce",
    "RelaxedBernoulli",
    "RelaxedBernoulliStraightThrough",
    "RelaxedOneHotCategorical",
    "RelaxedOneHotCategoricalStraightThrough",
    "RelaxedTopK",
    "UnorderedSet",
    "constraints",
    "kl_divergence",
]
