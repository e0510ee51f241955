"""``pyro-ext evidence``."""
