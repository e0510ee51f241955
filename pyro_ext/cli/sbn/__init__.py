"""``pyro-ext sbn``."""
