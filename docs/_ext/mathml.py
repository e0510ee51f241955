"""Mathematics as MathML, which browsers draw themselves: no script, no network."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LOG = logging.getLogger(__name__)
_UNKNOWN = re.compile(r"<m[a-z]+[^>]*>\s*(\\[A-Za-z|]+)")
_REPLACED = {r"\arg": r"\operatorname{arg}", r"\Big\lVert": r"\Big‖", r"\Big\rVert": r"\Big‖"}
"""What the converter does not know, by what it knows."""


def _mathml(node: nodes.Element, display: str) -> str:
    source = node.astext().strip()
    for unknown, known in _REPLACED.items():
        source = source.replace(unknown, known)
    if r"\\" in source and r"\begin" not in source:
        source = rf"\begin{{aligned}}{source}\end{{aligned}}"
    try:
        text = convert(source, display=display)
    except Exception as error:
        _LOG.warning("this formula cannot be written as MathML (%s): %s", error, source, location=node)
        return ""
    left = _UNKNOWN.findall(text)
    if left:
        _LOG.warning("MathML has nothing for %s in %s", ", ".join(left), source, location=node)
    return text


def _inline(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(_mathml(node, "inline"))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math-block"))
    self.body.append(_mathml(node, "block"))
    self.body.append("</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Give Sphinx the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
