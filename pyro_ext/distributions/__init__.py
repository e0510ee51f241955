"""Distributions over discrete and structured values, used like Pyro's own."""

from pyro_ext.distributions import constraints
from pyro_ext.distributions.plackett_luce import PlackettLuce
from pyro_ext.distributions.unordered_set import UnorderedSet

__all__ = ["PlackettLuce", "UnorderedSet", "constraints"]
