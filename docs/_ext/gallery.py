"""All plots of the executed tutorials on one page: ``gallery.md`` says where."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class gallery(nodes.General, nodes.Element):
    """Where the plots go, once all tutorials have been executed."""


class Gallery(SphinxDirective):
    """The directive: ``{gallery}``, without arguments."""

    def run(self) -> list[nodes.Node]:
        """Return the place."""
        return [gallery()]


def _fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for place in list(doctree.findall(gallery)):
        place.replace_self([part for page in _tutorials(app) for part in _section(app, page, docname)])


def _tutorials(app: Sphinx) -> list[str]:
    pages = [page for page in app.env.found_docs if page.startswith("tutorials/") and not page.endswith("/index")]
    return sorted(pages, key=lambda page: (page.count("/"), page))


def _section(app: Sphinx, page: str, docname: str) -> list[nodes.Node]:
    tree = app.env.get_doctree(page)
    address = app.builder.get_relative_uri(docname, page)
    name = app.env.titles[page].astext()
    first = next((p.astext() for p in tree.findall(nodes.paragraph)), "")
    heading = nodes.paragraph("", "", classes=["gallery-title"])
    heading += nodes.reference("", name, refuri=address, internal=True)
    row = nodes.container(classes=["gallery-row"])
    for number, image in enumerate(tree.findall(nodes.image), start=1):
        address_of = image.get("candidates", {}).get("*", image["uri"])
        thumbnail = nodes.image(uri=address_of, candidates={"*": address_of}, alt=f"{name}, plot {number}")
        if address_of in app.env.images:
            row += nodes.reference("", "", thumbnail, refuri=address, internal=True)
    return [heading, nodes.paragraph("", first), *([row] if len(row) else [])]


def setup(app: Sphinx) -> dict[str, bool]:
    """Give Sphinx the directive."""
    app.add_node(gallery)
    app.add_directive("gallery", Gallery)
    app.connect("doctree-resolved", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
