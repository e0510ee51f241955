"""``pyro-ext demo``."""
