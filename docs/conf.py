"""Sphinx configuration: furo, Google docstrings, tutorials executed as they are rendered, and no network.

Pages of names, commands, models and results are written by the extensions in ``_ext`` whenever the site is built; they
are not kept in the repository. ``PYRO_EXT_INTERSPHINX=1`` links the names of Python, torch and Pyro to their own
documentation, which is then read from the network.
"""

import os
import sys
from pathlib import Path

os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # whatever the shell asks for
os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars are no part of a page
os.environ.setdefault("PYTHONWARNINGS", "ignore::tqdm.TqdmWarning")
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from pyro_ext import __version__

project = "pyro_ext"
author = "the pyro_ext authors"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "api",
    "commands",
    "gallery",
    "mathml",
    "models",
    "notebooks",
    "results",
]
exclude_patterns = ["_build", "_ext", "conf.py", "twenty_lines.py", "check_pages.py"]
html_theme = "furo"
html_title = f"pyro_ext {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_copyright = False

if os.environ.get("PYRO_EXT_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "pyro": ("https://docs.pyro.ai/en/stable", None),
    }

# Base classes of torch and Pyro have docstrings in other formats, so only members of our own classes are shown.
autodoc_default_options = {"show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autosummary_generate = False  # the pages of names are written by _ext/api.py, each name once
napoleon_use_ivar = True  # fields of dataclasses are described once, in the class
suppress_warnings = ["ref.python"]  # two models have options of a type called Network
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 2
nb_custom_formats = {".py": "notebooks.read"}
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars, and notes about the machine; what tutorials tell, they print
