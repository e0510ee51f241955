"""``pyro-ext fit``."""
