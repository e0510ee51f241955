"""The subsplit graph as a networkx graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pyro_ext.ops.subsplits.bits import members

if TYPE_CHECKING:
    import networkx

    from pyro_ext.phylo.support import SubsplitSupport

__all__ = ["subsplit_graph"]

Clade = tuple[str, ...]
Subsplit = tuple[Clade, Clade]


def subsplit_graph(support: SubsplitSupport) -> networkx.DiGraph:
    """Return the directed acyclic graph of subsplits.

    A node is ``"root"``, or a subsplit, written as two tuples of taxa, the tuple with the first taxon first. An edge
    leads from the parent to the child subsplit; its attributes are ``parameter``, the position of the pair among the
    support's parameters, and ``clade``, the taxa that the child splits.

    Args:
        support: the support whose subsplits are the nodes.

    Raises:
        ValueError: if the support does not tell contexts apart by sisters.
    """
    import networkx

    if not support.sisters:
        raise ValueError(f"{support!r} has splits of clades, no pairs of subsplits: build it with sisters=True")
    layout = support.layout
    names = _clade_names(layout.words, support.taxa)
    sister, focal = layout.sister[support.graph.segment].tolist(), layout.focal[support.graph.segment].tolist()
    graph = networkx.DiGraph(taxa=support.taxa)
    graph.add_node("root")
    for parameter, (s, f, (first, second)) in enumerate(zip(sister, focal, layout.children.tolist(), strict=True)):
        parent = "root" if s < 0 else _subsplit(names[s], names[f])
        graph.add_edge(parent, _subsplit(names[first], names[second]), parameter=parameter, clade=names[f])
    return graph


def _clade_names(words: Tensor, taxa: Clade) -> list[Clade]:
    inside = members(words, len(taxa)).tolist()
    return [tuple(name for name, there in zip(taxa, row, strict=True) if there) for row in inside]


def _subsplit(first: Clade, second: Clade) -> Subsplit:
    return (first, second) if first < second else (second, first)
