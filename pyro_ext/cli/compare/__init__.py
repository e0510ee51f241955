"""``pyro-ext compare``."""
