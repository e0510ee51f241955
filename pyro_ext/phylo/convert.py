"""Trees from and to other packages: nested tuples, networkx, DendroPy and Biopython."""

from __future__ import annotations

import io
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pyro_ext.phylo.trees import TreeSet

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "from_biopython",
    "from_dendropy",
    "from_nested",
    "from_networkx",
    "to_biopython",
    "to_dendropy",
    "to_networkx",
]

Nested = Sequence[Any]


class _Node(NamedTuple):
    """A node of another package's tree.

    Attributes:
        below: the node's children.
        name: the name of the taxon, for a leaf.
        length: the length of the edge above the node, if it has one.
    """

    below: Sequence[Any]
    name: str | None
    length: float | None


def from_nested(*trees: Nested, rooted: bool = False) -> TreeSet:
    """Make a set of trees of nested tuples of names.

    Args:
        *trees: each a tuple of two subtrees, or three if unrooted; a subtree is a name or a tuple of two.
        rooted: whether the place of the root is part of the trees.

    Raises:
        ValueError: if one is no binary tree, or they have different taxa.

    Example:
        >>> from_nested(("b", ("c", "d"), "a")).to_newick()
        ['(a,b,(c,d));']
    """

    def look(node: Any) -> _Node:
        return _Node((), node, None) if isinstance(node, str) else _Node(tuple(node), None, None)

    return _tree_set(trees, look, rooted)


def from_networkx(*graphs: nx.Graph, rooted: bool = False) -> TreeSet:
    """Make a set of trees of networkx graphs.

    Args:
        *graphs: trees whose leaves have the taxon's name as the attribute ``taxon``, or as their name. Edges point
            away from the root; unrooted trees may have undirected edges. The edges' attribute ``length`` becomes the
            branch length.
        rooted: whether the place of the root is part of the trees.

    Raises:
        ValueError: if one is no binary tree, or they have different taxa.

    Example:
        >>> import networkx as nx
        >>> from_networkx(nx.Graph([("a", 0), ("b", 0), (0, 1), ("c", 1), ("d", 1)])).to_newick()
        ['(a,b,(c,d));']
    """
    sets = [_from_graph(graph, rooted) for graph in graphs]
    if not sets:
        raise ValueError("give at least one tree")
    return sets[0].concatenate(*sets[1:])


def to_networkx(trees: TreeSet, index: int = 0) -> nx.DiGraph:
    """Return one of the trees as a graph.

    Args:
        trees: the set of trees.
        index: the number of the tree to return.

    Returns:
        Nodes are numbered as in the tree; leaves have an attribute ``taxon``. Edges point away from the root, which is
        taxon 0 in an unrooted tree, and have an attribute ``length`` if the tree has branch lengths.

    Example:
        >>> graph = to_networkx(from_nested(("a", "b", ("c", "d"))))
        >>> sorted(graph.edges), graph.nodes[3]["taxon"]
        ([(0, 4), (4, 1), (4, 5), (5, 2), (5, 3)], 'd')
    """
    import networkx as nx

    parents = trees.parents[index].tolist()
    lengths = None if trees.branch_lengths is None else trees.branch_lengths[index].tolist()
    graph = nx.DiGraph()
    for node in range(len(parents)):
        graph.add_node(node, **({"taxon": trees.taxa[node]} if node < trees.num_taxa else {}))
    edges = [node for node, parent in enumerate(parents) if parent >= 0]
    for edge, node in enumerate(edges):
        graph.add_edge(parents[node], node, **({} if lengths is None else {"length": lengths[edge]}))
    return graph


def from_dendropy(trees: Any, *, rooted: bool | None = None) -> TreeSet:
    """Make a set of trees of a DendroPy ``Tree`` or ``TreeList``.

    Args:
        trees: a ``Tree`` or ``TreeList``; weights are kept if all trees have one.
        rooted: whether the place of the root is part of the trees; by default as the first tree says.

    Raises:
        ValueError: if one is no binary tree, or they have different taxa.
    """
    every = [trees] if hasattr(trees, "seed_node") else list(trees)

    def look(node: Any) -> _Node:
        name = node.taxon.label if node.taxon is not None else node.label
        return _Node(node.child_nodes(), name, node.edge_length)

    is_rooted = bool(every and every[0].is_rooted) if rooted is None else rooted
    return _tree_set(
        [tree.seed_node for tree in every], look, is_rooted, [getattr(tree, "weight", None) for tree in every]
    )


def to_dendropy(trees: TreeSet) -> Any:
    """Return the trees as a DendroPy ``TreeList``, with their weights.

    Raises:
        ImportError: if DendroPy is not installed.
    """
    try:
        import dendropy
    except ImportError as error:
        raise ImportError("to_dendropy needs DendroPy: pip install dendropy") from error
    mark = "[&R] " if trees.rooted else "[&U] "
    text = "\n".join(mark + line for line in trees.to_newick())
    tree_list = dendropy.TreeList.get(data=text, schema="newick", preserve_underscores=True)
    if trees.weights is not None:
        for tree, weight in zip(tree_list, trees.weights.tolist(), strict=True):
            tree.weight = weight
    return tree_list


def from_biopython(trees: Any, *, rooted: bool | None = None) -> TreeSet:
    """Make a set of trees of Biopython's trees.

    Args:
        trees: one tree of ``Bio.Phylo``, or several; weights are kept unless all are 1, the default.
        rooted: whether the place of the root is part of the trees; by default, whether the first one is marked as
            rooted or has two subtrees at its root.

    Raises:
        ValueError: if one is no binary tree, or they have different taxa.
    """
    every = [trees] if hasattr(trees, "clade") else list(trees)

    def look(node: Any) -> _Node:
        return _Node(node.clades, node.name, node.branch_length)

    is_rooted = rooted
    if is_rooted is None:
        is_rooted = bool(every) and (every[0].rooted or len(every[0].root.clades) == 2)
    weights = [getattr(tree, "weight", None) for tree in every]
    counts_alike = all(weight == 1.0 for weight in weights)  # what all trees have by default
    return _tree_set([tree.root for tree in every], look, is_rooted, None if counts_alike else weights)


def to_biopython(trees: TreeSet) -> list[Any]:
    """Return each tree as one of ``Bio.Phylo``, with its weight.

    Raises:
        ImportError: if Biopython is not installed.
    """
    try:
        from Bio import Phylo
    except ImportError as error:
        raise ImportError("to_biopython needs Biopython: pip install 'pyro-ext[phylo]'") from error
    every = list(Phylo.parse(io.StringIO("\n".join(trees.to_newick())), "newick", rooted=trees.rooted))
    if trees.weights is not None:
        for tree, weight in zip(every, trees.weights.tolist(), strict=True):
            tree.weight = weight
    return every


def _from_graph(graph: nx.Graph, rooted: bool) -> TreeSet:
    import networkx as nx

    if not nx.is_tree(graph):
        raise ValueError("the graph is not a tree: it has a cycle, or is not connected")
    if len(graph) == 2 and not rooted:
        graph = _split_edge(graph)
    root = _graph_root(graph, rooted)
    above: dict[Hashable, Hashable] = {root: None}

    def look(node: Any) -> _Node:
        below = [other for other in nx.all_neighbors(graph, node) if other != above[node]]
        above.update(dict.fromkeys(below, node))
        parent = above[node]
        ends = (parent, node) if graph.has_edge(parent, node) else (node, parent)
        length = None if parent is None else graph.edges[ends].get("length")
        return _Node(below, str(graph.nodes[node].get("taxon", node)), length)

    return _tree_set([root], look, rooted)


def _split_edge(graph: nx.Graph) -> nx.DiGraph:
    """Put a root on the only edge of a tree of two taxa."""
    import networkx as nx

    ((first, second, own),) = graph.edges(data=True)
    root = object()  # equal to none of the graph's nodes
    split = nx.DiGraph([(root, first, {"length": 0.0} if "length" in own else {}), (root, second, own)])
    for node in graph:
        split.nodes[node].update(graph.nodes[node])
    return split


def _graph_root(graph: nx.Graph, rooted: bool) -> Hashable:
    """Return a node to start from: the root, or any internal one."""
    if graph.is_directed():
        sources = [node for node, degree in graph.in_degree() if degree == 0]
        if len(sources) != 1:
            raise ValueError(f"edges must point away from one root, but {len(sources)} nodes have no edge into them")
        if rooted or graph.degree(sources[0]) > 1:
            return sources[0]
    elif rooted:
        raise ValueError("a rooted tree needs directed edges, away from the root: give a networkx.DiGraph")
    return next((node for node in graph if graph.degree(node) > 1), next(iter(graph)))


def _tree_set(
    roots: Sequence[Any], look: Callable[[Any], _Node], rooted: bool, weights: Sequence[float | None] | None = None
) -> TreeSet:
    """Walk through trees from their roots, and make a set of them."""
    if not roots:
        raise ValueError("give at least one tree")
    walks = [_walk(root, look) for root in roots]
    taxa = sorted(name for name, _, _ in walks[0] if name is not None)
    numbers = {name: number for number, name in enumerate(taxa)}
    parts = [_from_walk(walk, taxa, numbers, rooted, k) for k, walk in enumerate(walks)]
    trees = parts[0].concatenate(*parts[1:])
    if weights is None or any(weight is None for weight in weights):
        return trees
    own = torch.tensor(weights, dtype=torch.float64)
    return TreeSet(trees.taxa, trees.parents, rooted, own, trees.branch_lengths)


def _walk(root: Any, look: Callable[[Any], _Node]) -> list[tuple[str | None, int, float | None]]:
    """Return each node's name if it is a leaf, its parent's place in the list, and the length above it, in preorder."""
    nodes: list[tuple[str | None, int, float | None]] = []
    waiting: list[tuple[Any, int]] = [(root, -1)]
    while waiting:
        node, parent = waiting.pop()
        below, name, length = look(node)
        waiting.extend((child, len(nodes)) for child in reversed(below))
        nodes.append((None if below else str(name), parent, length))
    return nodes


def _from_walk(
    walk: list[tuple[str | None, int, float | None]], taxa: list[str], numbers: dict[str, int], rooted: bool, which: int
) -> TreeSet:
    names = [name for name, _, _ in walk if name is not None]
    if sorted(names) != taxa or len(numbers) != len(taxa):
        odd = sorted(set(names) ^ set(taxa)) or [name for name in names if names.count(name) > 1]
        raise ValueError(f"tree {which} has other taxa than the first, or one twice: {odd[0]!r}")
    inner = iter(range(len(taxa), len(walk)))
    place = [next(inner) if name is None else numbers[name] for name, _, _ in walk]
    parents, lengths = [-1] * len(walk), [0.0] * len(walk)
    for node, (_, parent, length) in zip(place, walk, strict=True):
        parents[node] = -1 if parent < 0 else place[parent]
        lengths[node] = 0.0 if length is None else float(length)
    known = _all_or_none(length for _, parent, length in walk if parent >= 0)
    if not _fits(len(walk), len(taxa), rooted):
        raise ValueError(f"tree {which} is not binary: {len(taxa)} taxa and {len(walk)} nodes")
    return TreeSet.from_parents(
        taxa,
        torch.tensor([parents]),
        rooted=rooted,
        branch_lengths=torch.tensor([lengths], dtype=torch.float64) if known else None,
    )


def _fits(nodes: int, n: int, rooted: bool) -> bool:
    return nodes == 2 * n - 1 or (not rooted and nodes == 2 * n - 2)


def _all_or_none(lengths: Iterable[float | None]) -> bool:
    known = {length is not None for length in lengths}
    if len(known) > 1:
        raise ValueError("some branches have lengths and some have not")
    return known == {True}
