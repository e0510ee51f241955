"""Tensor functions: torch in, torch out, no Pyro."""
