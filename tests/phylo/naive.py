"""Trees done slowly, one at a time, to compare with."""

import re

TOKEN = re.compile(r"\s*(\[[^\]]*\]|'(?:[^']|'')*'|[(),:;]|[^\s(),:;\[\]']+)")


def parse(text):
    """Newick -> nested (name or children, length)."""
    tokens = [token for token in TOKEN.findall(text) if not token.startswith("[")]

    def subtree():
        if tokens[0] == "(":
            children = []
            while tokens.pop(0) in "(,":
                children.append(subtree())
                if tokens[0] == ")":
                    tokens.pop(0)
                    break
            own = children
            if tokens[0] not in ",):;":
                tokens.pop(0)
        else:
            name = tokens.pop(0)
            own = name[1:-1].replace("''", "'") if name.startswith("'") else name
        length = None
        if tokens[0] == ":":
            tokens.pop(0)
            length = float(tokens.pop(0))
        return own, length

    return subtree()


def taxa(tree):
    own, _ = tree
    return [own] if isinstance(own, str) else sorted(name for child in own for name in taxa(child))


def edges(tree, rooted):
    """Each edge's clade, or its split's side without the first taxon -> its length."""
    every = frozenset(taxa(tree))
    first = min(every)
    lengths = {}

    def walk(node):
        own, length = node
        below = frozenset(taxa(node))
        side = below if rooted or first not in below else every - below
        if length is not None and side in lengths and lengths[side] is not None:
            length += lengths[side]
        lengths[side] = length
        if not isinstance(own, str):
            for child in own:
                walk(child)

    for child in tree[0]:
        walk(child)
    return lengths


def edges_of(names, parents, lengths, rooted):
    """The same of a parent vector, by climbing from every leaf."""
    n = len(names)
    root = n if rooted else 0
    below = {node: set() for node in range(len(parents)) if node != root}
    for leaf in range(n):
        node = leaf
        while node != root and node >= 0:
            below[node].add(names[leaf])
            node = parents[node]
    nodes = sorted(below)
    return {frozenset(below[node]): None if lengths is None else lengths[k] for k, node in enumerate(nodes)}


def canonical(names, tree, rooted):
    """The parent vector that the definition asks for, by recursion."""
    names = sorted(names)
    n = len(names)
    sides = {frozenset(names.index(name) for name in side) for side in edges(tree, rooted)}
    top = frozenset(range(n)) if rooted else frozenset(range(1, n))
    parents = [-1] * (2 * n - 1 if rooted else 2 * n - 2)
    numbers = iter(range(n, 2 * n))

    def place(clade, parent):
        if len(clade) == 1:
            (leaf,) = clade
            parents[leaf] = parent
            return
        node = next(numbers)
        parents[node] = parent
        inner = [side for side in sides if side < clade]
        children = [side for side in inner if not any(side < other for other in inner)]
        for child in sorted(children, key=min):
            place(child, node)

    place(top, -1 if rooted else 0)
    return parents
