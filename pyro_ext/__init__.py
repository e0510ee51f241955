"""Variational inference over discrete and structured latent variables, as an extension of Pyro."""

__version__ = "0.2.0"
