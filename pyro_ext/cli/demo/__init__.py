"""The demonstration behind ``make demo``: ``python -m pyro_ext.cli.demo``."""
