"""Trees for tests of pruning, and likelihoods by listing every history."""

import torch

from pyro_ext import phylo


def random_trees(number, num_taxa, rooted=False, seed=0):
    """Canonical parent vectors ``(number, 2n - 2)``, or ``(number, 2n - 1)`` rooted."""
    return phylo.random_trees(num_taxa, number, rooted=rooted, generator=torch.Generator().manual_seed(seed))


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
