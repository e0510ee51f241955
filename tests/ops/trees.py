"""Random canonical trees for tests, built leaf by leaf, and likelihoods by listing every history."""

import random

import torch


def random_trees(number, num_taxa, rooted=False, seed=0):
    """Canonical parent vectors ``(number, 2n - 2)``, or ``(number, 2n - 1)`` rooted."""
    chance = random.Random(seed)
    return torch.tensor([_canonical(_grown(num_taxa, rooted, chance), num_taxa, rooted) for _ in range(number)])


def _grown(num_taxa, rooted, chance):
    """Children of every internal node, and the topmost node; each leaf cuts an edge chosen at random."""
    first = 0 if rooted else 1
    top, children, above = first, {}, {first: None}
    for leaf in range(first + 1, num_taxa):
        below = chance.choice([*above])
        new, parent = num_taxa + len(children), above[below]
        children[new] = [below, leaf]
        above |= {new: parent, below: new, leaf: new}
        if parent is None:
            top = new
        else:
            children[parent][children[parent].index(below)] = new
    return children, top


def _canonical(tree, num_taxa, rooted):
    children, top = tree
    order = [top]
    for node in order:
        order += children.get(node, [])
    smallest = {}
    for node in reversed(order):
        smallest[node] = min((smallest[child] for child in children.get(node, [])), default=node)
    parents = [-1] * (2 * num_taxa - 2 + rooted)
    fresh, pending = num_taxa, [(top, -1 if rooted else 0)]
    while pending:
        node, parent = pending.pop()
        number = node
        if node in children:
            number, fresh = fresh, fresh + 1
            pending += [(child, number) for child in sorted(children[node], key=smallest.get, reverse=True)]
        parents[number] = parent
    return parents


def listed_likelihood(parents, transitions, frequencies, partials):
    """The likelihood of every site ``(S,)`` of one tree, a sum over the states of all nodes."""
    num_taxa, _, num_states = partials.shape
    root = num_taxa if len(parents) % 2 else 0
    states = torch.cartesian_prod(*[torch.arange(num_states)] * len(parents)).T  # (nodes, histories)
    terms = frequencies[states[root]]
    for node, parent in enumerate(parents.tolist()):
        if node != root:
            terms = terms * transitions[node - (node > root), states[parent], states[node]]
    seen = torch.stack([partials[i][:, states[i]] for i in range(num_taxa)])  # (n, S, histories)
    return (terms * seen.prod(0)).sum(-1)
