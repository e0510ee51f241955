"""The tree of a mutation matrix without conflicts, and the graph of the conflicts of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_ext.ops.mutations import MISSING, conflicting_pairs, gamete_product
from pyro_ext.phylo._newick_text import quoted
from pyro_ext.phylo.mutation_matrix import MutationMatrix
from pyro_ext.phylo.reading import parse_trees
from pyro_ext.phylo.trees import TreeSet

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["conflict_graph", "perfect_phylogeny", "phylogeny_newick", "phylogeny_trees"]


def perfect_phylogeny(matrix: MutationMatrix) -> nx.DiGraph:
    """Build the tree of clones of a mutation matrix without conflicts.

    Each mutation lies on one edge. Mutations that the same cells have lie on the same edge, in an order that the matrix
    does not tell. Nodes are clones, node 0 the normal cells, from which all descend.

    Args:
        matrix: cells x mutations, without conflicts and missing entries.

    Returns:
        A directed tree, edges away from node 0, which is the root. Each node has the attributes ``mutations``, the
        names of the mutations on the edge above it, and ``cells``, the names of the cells that belong to it and to none
        of its descendants. Nodes are numbered in preorder, larger clades before smaller ones. Mutations of no cell are
        in no node; the graph's attribute ``absent`` names them.

    Raises:
        ValueError: if two mutations are in conflict, which the message names, or entries are missing.

    References:
        | Efficient algorithms for inferring evolutionary trees (Gusfield, 1991)
        | https://doi.org/10.1002/net.3230210104

    Example:
        >>> matrix = MutationMatrix.of([[1, 1, 0], [1, 0, 0], [1, 0, 1]], ["A", "B", "C"], ["x", "y", "z"])
        >>> tree = perfect_phylogeny(matrix)
        >>> list(tree.edges), tree.nodes[1], tree.nodes[2]
        ([(0, 1), (1, 2), (1, 3)], {'mutations': ('x',), 'cells': ('B',)}, {'mutations': ('y',), 'cells': ('A',)})
    """
    _check_complete(matrix)
    conflicts = conflicting_pairs(matrix.values).nonzero()
    if len(conflicts):
        first, second = (matrix.mutations[place] for place in conflicts[0].tolist())
        raise ValueError(
            f"mutations {first!r} and {second!r} are in conflict (one of {len(conflicts) // 2} pairs), so there is no "
            "perfect phylogeny; maximum_likelihood_phylogeny finds the most probable matrix that has one"
        )
    import networkx as nx

    groups: dict[frozenset[int], list[str]] = {}
    for name, column in zip(matrix.mutations, matrix.values.mT.tolist(), strict=True):
        groups.setdefault(frozenset(place for place, entry in enumerate(column) if entry), []).append(name)
    absent = tuple(groups.pop(frozenset(), ()))
    clades = sorted(groups, key=lambda clade: (-len(clade), sorted(clade)))
    above = [_parent(clade, clades[:place]) for place, clade in enumerate(clades)]
    below: dict[int, list[int]] = {}
    for place, parent in enumerate(above):
        below.setdefault(parent, []).append(place)
    tree = nx.DiGraph(absent=absent)
    tree.add_node(0, mutations=(), cells=_own_cells(range(matrix.shape[0]), below.get(-1, []), clades, matrix))
    waiting = [(place, 0) for place in reversed(below.get(-1, []))]
    while waiting:
        place, parent = waiting.pop()
        node, kids = len(tree), below.get(place, [])
        tree.add_node(
            node, mutations=tuple(groups[clades[place]]), cells=_own_cells(clades[place], kids, clades, matrix)
        )
        tree.add_edge(parent, node)
        waiting += [(kid, node) for kid in reversed(kids)]
    return tree


def phylogeny_newick(tree: nx.DiGraph) -> str:
    """Write a tree of clones as a line of Newick whose leaves are cells.

    The label of an inner node is the mutations on the edge above it, with commas between them; the length of the edge
    is their number. Cells hang on edges of length 0 from the clone that they belong to. A clone without cells or
    descendants cannot be written and does not come from a matrix.

    Args:
        tree: a tree of clones, as :func:`perfect_phylogeny` returns it.

    Raises:
        ValueError: if a name is empty or has a line break, or the graph is no tree of clones.

    Example:
        >>> matrix = MutationMatrix.of([[1, 1, 0], [1, 0, 0], [1, 0, 1]], ["A", "B", "C"], ["x", "y", "z"])
        >>> phylogeny_newick(perfect_phylogeny(matrix))
        '((B:0,(A:0)y:1,(C:0)z:1)x:1);'
    """
    return _newick(tree, labels=True) + ";"


def phylogeny_trees(tree: nx.DiGraph, seed: int = 0) -> TreeSet:
    """Turn a tree of clones into a rooted binary tree of its cells.

    Args:
        tree: a tree of clones, as :func:`perfect_phylogeny` returns it, with two cells at least.
        seed: the seed by which nodes with several descendants are resolved, in one of all ways of equal probability.

    Returns:
        One tree. The length of an edge is the number of mutations on it, 0 for edges that only resolve a node.

    Raises:
        ValueError: if there are fewer than two cells.

    Example:
        >>> matrix = MutationMatrix.of([[1, 1, 0], [1, 1, 0], [1, 0, 1]], ["A", "B", "C"])
        >>> phylogeny_trees(perfect_phylogeny(matrix)).to_newick()
        ['((A:0.0,B:0.0):1.0,C:1.0);']
    """
    number = sum(len(cells) for _, cells in tree.nodes(data="cells"))
    if number < 2:
        raise ValueError(f"tree must have two cells at least, got {number}")
    return parse_trees(_newick(tree, labels=False) + ";", rooted=True, polytomies="random", seed=seed)


def conflict_graph(matrix: MutationMatrix) -> nx.Graph:
    """Return the graph of mutations that are in conflict; missing entries count as 0.

    Args:
        matrix: cells x mutations.

    Returns:
        Nodes are the names of mutations; an edge joins two that show all three gametes. Its attribute ``weight`` is the
        product of the numbers of cells with each of these.

    Example:
        >>> graph = conflict_graph(MutationMatrix.of([[1, 1, 0], [1, 0, 0], [0, 1, 1]]))
        >>> list(graph.edges(data="weight"))
        [('m1', 'm2', 1)]
    """
    import networkx as nx

    filled = matrix.filled()
    graph = nx.Graph()
    graph.add_nodes_from(matrix.mutations)
    for first, second in conflicting_pairs(filled).triu(1).nonzero().tolist():
        weight = int(gamete_product(filled[:, [first, second]]))
        graph.add_edge(matrix.mutations[first], matrix.mutations[second], weight=weight)
    return graph


def _check_complete(matrix: MutationMatrix) -> None:
    missing = int((matrix.values == MISSING).sum())
    if missing:
        raise ValueError(
            f"matrix has {missing} missing entries; take matrix.replace(matrix.filled()), or the most probable ones by "
            "maximum_likelihood_phylogeny"
        )


def _parent(clade: frozenset[int], larger: list[frozenset[int]]) -> int:
    """Return the place of the smallest clade around another one, of those in the order of size; -1 without any."""
    return next((place for place in range(len(larger) - 1, -1, -1) if clade < larger[place]), -1)


def _own_cells(
    clade: frozenset[int] | range, kids: list[int], clades: list[frozenset[int]], matrix: MutationMatrix
) -> tuple[str, ...]:
    of_kids = frozenset().union(*(clades[kid] for kid in kids))
    return tuple(matrix.cells[cell] for cell in sorted(clade) if cell not in of_kids)


def _newick(tree: nx.DiGraph, labels: bool) -> str:
    """Return the text of a tree, without the semicolon; without labels, nodes of one descendant are left out, too."""
    import networkx as nx

    text: dict[int, tuple[str, int]] = {}  # of each node: what hangs on it, and the mutations above to be added
    for node in reversed(list(nx.dfs_preorder_nodes(tree, 0))):
        parts = [(quoted(cell), 0) for cell in tree.nodes[node]["cells"]]
        parts += [text.pop(kid) for kid in tree.successors(node)]
        mutations = tree.nodes[node]["mutations"]
        if not parts:
            raise ValueError(f"node {node} has neither cells nor descendants, so that Newick cannot show it")
        if len(parts) == 1 and not labels:
            text[node] = (parts[0][0], parts[0][1] + len(mutations))
            continue
        inner = "(" + ",".join(f"{part}:{length}" for part, length in parts) + ")"
        label = quoted(",".join(mutations)) if labels and mutations else ""
        text[node] = (inner + label, len(mutations))
    return text[0][0]
