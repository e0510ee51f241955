"""Sphinx configuration: furo, Google docstrings, and tutorials executed as they are rendered."""

from pyro_ext import __version__

project = "pyro_ext"
author = "the pyro_ext authors"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "conf.py"]
html_theme = "furo"
html_title = f"pyro_ext {version}"

# Base classes of torch and Pyro have docstrings in other formats, so only members of our own classes are shown.
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_use_ivar = True  # fields of dataclasses are described once, in the class

myst_enable_extensions = ["dollarmath"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
